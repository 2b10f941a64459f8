"""Decides, without touching anything, what brings one stack from what is observed to what is desired.

Level-triggered: only what is observed counts, never what an earlier plan meant to do. An empty plan needs no graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from reconciler.differences import find_differences, show
from reconciler.drafts import Draft, number
from reconciler.model import LABEL_FINGERPRINT, LABEL_RESOURCE, LABEL_STACK, Desired, Key, Resource
from reconciler.observed import Instance, Observed, needs_to_json
from reconciler.plan import Blocked, Hold, Pending, Plan, Reason, Verb, Wait
from reconciler.removal import add_removals, make_destroy_plan, over_budget, plan_prune, uses_network
from reconciler.replacement import choose_order, fixed_ports, published
from reconciler.requests import image_name
from reconciler.restart import decide_restart, has_completed, runs_to_completion
from reconciler.timing import refresh_due
from reconciler.waiting import Standing, judge

__all__ = ["count_replicas", "digest_basis", "make_destroy_plan", "make_plan"]

CREATING = ("create", "replace", "start", "restart")
UNMAKING = ("remove", "stop", "update")


def make_plan(
    desired: Desired,
    observed: Observed,
    now: float,
    *,
    prune: bool = True,
    only_drift: bool = False,
    suspended: Collection[Key] = frozenset(),
    allow_deletions: bool = False,
    refresh: bool = False,
    held: Mapping[Key, Hold] | None = None,
) -> Plan:
    """Pure. `now` is wall clock.

    `only_drift` heals and does nothing else; `suspended` resources are left alone; `allow_deletions` lifts the deletion
    budget; `refresh` makes images anew that come from packages; `held` holds back resources whose last action failed.
    """
    planning = _Planning(desired, observed, now, suspended, held or {}, only_drift=only_drift, refresh=refresh)
    return planning.run(prune=prune and not only_drift, allow_deletions=allow_deletions)


class _Planning:
    """The state of one planning: drafts of actions, and how every resource stands."""

    def __init__(
        self,
        desired: Desired,
        observed: Observed,
        now: float,
        suspended: Collection[Key],
        held: Mapping[Key, Hold],
        *,
        only_drift: bool,
        refresh: bool,
    ) -> None:
        self.desired = desired
        self.resources = desired.resources
        self.observed = observed
        self.now = now
        self.suspended = suspended
        self.held = held
        self.only_drift = only_drift
        self.refresh = refresh
        self.drafts: dict[Key, list[Draft]] = {}
        self.standing: dict[Key, list[Standing]] = {}
        self.blocked: dict[Key | None, Blocked] = {}
        self.pending: dict[tuple[Key, int], Pending] = {}
        self.warnings: list[str] = []
        self.timers: list[float] = []

    def run(self, *, prune: bool, allow_deletions: bool) -> Plan:
        for key, resource in self.resources.items():
            if key in self.suspended and not resource.external:
                self._stand_still(resource)
            elif key.kind == "image":
                self._image(resource)
            elif key.kind == "network":
                self._network(resource)
            elif key.kind == "volume":
                self._volume(resource)
        for key, resource in self.resources.items():
            if key.kind in ("service", "job") and key not in self.suspended:
                self._replicas(resource)
        removals: list[Draft] = []
        if prune:
            removals = self._prune(allow_deletions)
        order: dict[Key, int] = {}
        if any(self.drafts.values()) or removals:
            order = self._connect(removals)
        actions = number([*(one for drafts in self.drafts.values() for one in drafts), *removals], order)
        times = [*self.timers, *(pending.until for pending in self.pending.values())]
        return Plan(
            self.desired.stack,
            actions,
            tuple(self.blocked.values()),
            tuple(sorted(self.pending.values(), key=lambda one: (one.until, one.key, one.index))),
            tuple(self.warnings),
            min(times) if times else None,
            digest_basis(self.desired, self.observed),
        )

    # ---- drafts and standings

    def _draft(self, draft: Draft) -> Draft:
        self.drafts.setdefault(draft.key, []).append(draft)
        return draft

    def _stand(self, key: Key, state: Standing) -> None:
        self.standing.setdefault(key, []).append(state)

    def _block(self, key: Key, reason: str, hint: str = "") -> None:
        self.blocked.setdefault(key, Blocked(key, reason, hint))
        self._stand(key, Standing("blocked", reason))

    def _is_held(self, key: Key) -> bool:
        """A failed action is tried again later; what runs meanwhile is looked after as ever."""
        hold = self.held.get(key)
        if hold is None or hold.until <= self.now:
            return False
        self.pending.setdefault((key, 0), Pending(key, 0, hold.reason, hold.until))
        return True

    def _stand_still(self, resource: Resource) -> None:
        for instance in self.observed.instances.get(resource.key, ()):
            self._stand(resource.key, self._standing_of(resource, instance, "suspended"))
        if resource.key not in self.standing:
            self._stand(resource.key, Standing("present" if self._object_exists(resource) else "held", "suspended"))

    def _object_exists(self, resource: Resource) -> bool:
        key = resource.key
        if key.kind == "image":
            return (resource.object_name or key.name) in self.observed.images
        return key in self.observed.networks or key in self.observed.volumes

    # ---- images

    def _image(self, resource: Resource) -> None:
        key, name = resource.key, resource.object_name or resource.key.name
        present = self.observed.images.get(name)
        if resource.external:
            if present is None:
                self._block(key, f'image "{name}" is declared external and does not exist', "build or load it first")
            return
        verb: Verb = (
            "build" if resource.spec.get("build") else "bootstrap" if resource.spec.get("bootstrap") else "load"
        )
        reasons: tuple[Reason, ...]
        fresh = False
        if present is None:
            reasons = (Reason(text=f"there is no image {name}"),)
        elif present.labels.get(LABEL_FINGERPRINT) != resource.fingerprint and not self.only_drift:
            declared = present.declared if isinstance(present.declared, dict) else {}
            reasons = find_differences(declared.get("spec"), resource.spec) if declared.get("spec") else ()
            if declared.get("spec") == resource.spec:
                return
            if not reasons:
                reasons = (Reason(text=f"the image {name} that is here was not made from this manifest"),)
        else:
            due, text = refresh_due(resource.policy, verb, present, self.now, self.refresh)
            if due is None or self.only_drift:
                return
            if due > self.now:
                self.timers.append(due)
                return
            reasons, fresh = (Reason(text=text),), True
        if self._is_held(key):
            if present is None:
                self._stand(key, Standing("held", self.held[key].reason, until=self.held[key].until))
            return
        self._draft(Draft(verb, key, object_name=name, reasons=reasons, fresh=fresh))

    # ---- networks and volumes

    def _network(self, resource: Resource) -> None:
        key, name = resource.key, resource.object_name
        info = self.observed.networks.get(key)
        if resource.external:
            if name not in self.observed.network_names:
                self._block(key, f'network "{name}" is declared external and does not exist', "create it first")
            return
        if info is not None and info.name != name:
            # the manifest gave it another name: the old one goes when nothing uses it any more
            old = Draft("remove", key, object_name=info.name, reasons=(Reason("name", info.name, name),))
            self._draft(old)
            info = None
        if info is None:
            if name in self.observed.network_names:
                self._block(
                    key,
                    f'a network "{name}" exists that is not of this stack',
                    "remove it, or declare the network external, or give it another name",
                )
            elif self._is_held(key):
                self._stand(key, Standing("held", self.held[key].reason, until=self.held[key].until))
            else:
                self._draft(Draft("create", key, object_name=name, reasons=(Reason(text="it does not exist"),)))
            return
        declared = info.declared if isinstance(info.declared, dict) else {}
        same = info.labels.get(LABEL_FINGERPRINT) == resource.fingerprint or declared.get("spec") == resource.spec
        if not same and not self.only_drift:
            if not self._is_held(key):
                reasons = find_differences(declared.get("spec"), resource.spec) or (
                    Reason("fingerprint", show(info.labels.get(LABEL_FINGERPRINT)), show(resource.fingerprint)),
                )
                self._draft(Draft("replace", key, object_id=name, object_name=name, reasons=reasons))
        elif info.damage and not self._is_held(key):
            self._draft(Draft("repair", key, object_id=name, object_name=name, reasons=_damage(info.damage)))

    def _volume(self, resource: Resource) -> None:
        key, name = resource.key, resource.object_name
        info = self.observed.volumes.get(key)
        if resource.external:
            if name not in self.observed.volume_names:
                self._block(key, f'volume "{name}" is declared external and does not exist', "create it first")
            return
        if info is not None and info.name != name:
            self.warnings.append(f"volume {info.name} is not used any more ({key} is now {name}); its data is kept")
            info = None
        if info is None:
            if name in self.observed.volume_names:
                if self.observed.volume_owners.get(name, {}).get(LABEL_STACK):
                    self._block(key, f'volume "{name}" belongs to another stack', "declare it external to share it")
                else:
                    self._block(
                        key,
                        f'a volume "{name}" exists that is not of this stack',
                        "declare it external to use its data",
                    )
            elif self._is_held(key):
                self._stand(key, Standing("held", self.held[key].reason, until=self.held[key].until))
            else:
                reasons = [Reason(text="it does not exist")]
                users = self._running_users_of_volume(name)
                if users:
                    text = f"volume {name} has vanished while {', '.join(users)} used it; an empty one is made"
                    self.warnings.append(text)
                    reasons = [Reason(text="it has vanished: its data is gone")]
                self._draft(Draft("create", key, object_name=name, reasons=tuple(reasons)))
            return
        if info.damage and not self._is_held(key):
            self.warnings.append(f"volume {name} is damaged: {'; '.join(map(str, _damage(info.damage)))}")
            self._draft(Draft("repair", key, object_id=name, object_name=name, reasons=_damage(info.damage)))
        declared = info.declared if isinstance(info.declared, dict) else {}
        before = declared.get("spec")
        if info.labels.get(LABEL_FINGERPRINT) == resource.fingerprint or before == resource.spec or self.only_drift:
            return
        if isinstance(before, dict) and before.get("driver_opts") == resource.spec.get("driver_opts"):
            self.warnings.append(f"volume {name} keeps its labels: they change when it is next created")
            return
        text = "; ".join(map(str, find_differences(before, resource.spec))) or "its definition changed"
        # Not a standing: the volume and its data are there, and what uses them goes on.
        self.blocked[key] = Blocked(
            key,
            f"{text}: a volume that holds data is never made anew",
            f'"holdfast volume rm {name}" while nothing uses it starts empty; a volume of another name keeps this data',
        )

    def _running_users_of_volume(self, name: str) -> list[str]:
        users = []
        for found in self.observed.instances.values():
            for one in found:
                if one.live and name in _volume_names(one.spec):
                    users.append(f"{one.key}-{one.index}")
        return users

    # ---- services and jobs

    def _replicas(self, resource: Resource) -> None:
        key = resource.key
        by_index: dict[int, list[Instance]] = {}
        for instance in self.observed.instances.get(key, ()):
            by_index.setdefault(instance.index, []).append(instance)
        wanted = count_replicas(resource)
        limit = (resource.policy or {}).get("parallelism") if key.kind == "job" else None
        budget = int(limit) if limit else wanted
        for index in range(1, wanted + 1):
            found = by_index.pop(index, [])
            if key.kind == "job" and budget <= 0 and not found:
                self._stand(key, Standing("held", "waits for a free slot of its parallelism"))
                continue
            budget -= self._replica(resource, index, found)
        if self.only_drift:
            return
        previous: Draft | None = None
        for index in sorted(by_index, reverse=True):
            for surplus in by_index[index]:
                reason = Reason("replicas", str(len(self.observed.instances[key])), str(wanted))
                previous = self._remove(surplus, (reason,), after=[previous] if previous else [])

    def _remove(self, instance: Instance, reasons: tuple[Reason, ...], after: Iterable[Draft] = ()) -> Draft:
        return self._draft(
            Draft(
                "remove", instance.key, instance.index, instance.id, instance.state.name,
                reasons=reasons, after=list(after), grace=_grace(instance.policy),
            )
        )  # fmt: skip

    def _replica(self, resource: Resource, index: int, found: list[Instance]) -> int:
        """Returns 1 when this replica occupies a slot of a job's parallelism, else 0."""
        key = resource.key
        fitting = [one for one in found if self.only_drift or not self._misfit(resource, one)]
        stale = [one for one in found if one not in fitting]
        keep = _best(fitting)
        surplus = [self._remove(one, (Reason(text="it is one too many"),)) for one in fitting if one is not keep]
        if keep is not None and not stale:
            return self._look_after(resource, keep)
        old = _best(stale)
        if old is not None:
            surplus += [
                self._remove(one, (Reason(text="left over from a replacement that did not finish"),))
                for one in stale
                if one is not old
            ]
        if self._is_held(key):
            for one in found:
                self._stand(key, self._standing_of(resource, one, self.held[key].reason))
            if not found:
                self._stand(key, Standing("held", self.held[key].reason, until=self.held[key].until))
            return 0
        if not found or old is None:
            if self._has_image(resource):
                text = f"image {resource.spec.get('image')}"
                self._draft(Draft("create", key, index, reasons=(Reason(text=text),), after=list(surplus)))
            return 1
        if not self._has_image(resource):
            return 0
        reasons = self._misfit(resource, old)
        order, why = choose_order(resource)
        self._draft(
            Draft(
                "replace", key, index, old.id, old.state.name, keep.id if keep else "",
                reasons=reasons, after=list(surplus), order=order, order_reason=why, grace=_grace(old.policy),
                was_live=old.live,
            )
        )  # fmt: skip
        return 1

    def _has_image(self, resource: Resource) -> bool:
        wanted = str(resource.spec.get("image"))
        if Key("image", wanted) in self.resources or wanted in self.observed.images:
            return True
        self._block(resource.key, f'there is no image "{wanted}"', "build or load it, or declare an Image of that name")
        return False

    def _misfit(self, resource: Resource, one: Instance) -> tuple[Reason, ...]:
        """Why this container is not what is declared; empty when it is."""
        if one.fingerprint != resource.fingerprint and one.spec != resource.spec:
            return find_differences(one.spec, resource.spec) or (
                Reason("fingerprint", show(one.fingerprint), show(resource.fingerprint)),
            )
        image = Key("image", str(resource.spec.get("image")))
        if self.drafts.get(image):
            return ()
        present = self.observed.images.get(image_name(self.desired, image.name))
        if present is not None and present.id != one.state.image_id:
            return (Reason("image id", show(one.state.image_id), show(present.id)),)
        return ()

    def _look_after(self, resource: Resource, one: Instance) -> int:
        """A container that is what is declared: is it also where it should be?"""
        key, state = resource.key, one.state
        changed = self._policy_reasons(resource, one) if not self.only_drift else ()
        torn = not one.live and any(damage.what == "unclean-boot" for damage in state.damage)
        if state.intent == "stop" and not one.live and not changed:
            self._stand(key, Standing("held", "stopped by hand", one.id))
            return 0
        update: list[Draft] = []
        if changed:
            update = [
                self._draft(Draft("update", key, one.index, one.id, state.name, reasons=changed)),
            ]
        if one.live:
            if state.damage and state.status == "running" and not self._is_held(key):
                self._draft(Draft("repair", key, one.index, one.id, state.name, reasons=_damage(state.damage)))
            self._stand(key, self._standing_of(resource, one, ""))
            return 1
        verdict = decide_restart(key.kind, resource.policy, state, self.now)
        if verdict.what == "rest":
            completed = has_completed(state)
            self._stand(key, Standing("completed" if completed else "exited", verdict.reason, one.id))
            return 0
        if verdict.what == "give-up":
            self._block(key, verdict.reason, f"look at: holdfast logs {self.desired.stack}/{key.name}")
            return 0
        if self._is_held(key):
            hold = self.held[key]
            self._stand(key, Standing("held", hold.reason, one.id, until=hold.until))
            return 1
        if verdict.what == "later":
            self.pending[key, one.index] = Pending(key, one.index, verdict.reason, verdict.until)
            self._stand(key, Standing("held", verdict.reason, one.id, until=verdict.until))
            return 1
        if torn:
            reason = Reason(text="the machine went down while it ran; its writable layer may be torn")
            self._draft(
                Draft(
                    "replace", key, one.index, one.id, state.name, reasons=(reason,), after=update, order="stop-first",
                    order_reason="it does not run", grace=0.0,
                )
            )  # fmt: skip
        else:
            text = "started by a changed manifest" if state.intent == "stop" else verdict.reason
            self._draft(Draft("start", key, one.index, one.id, state.name, reasons=(Reason(text=text),), after=update))
        return 1

    def _policy_reasons(self, resource: Resource, one: Instance) -> tuple[Reason, ...]:
        reasons: tuple[Reason, ...] = ()
        if one.policy != resource.policy:
            reasons = find_differences(one.policy, resource.policy)
            count = {"replicas", "completions", "parallelism"}
            if reasons and all(reason.field in count for reason in reasons) and one.policy is not None:
                reasons = reasons[:1]
        declared = one.state.declared if isinstance(one.state.declared, dict) else {}
        if declared.get("needs") != needs_to_json(resource.needs):
            reasons += (Reason(text="its dependencies changed"),)
        return reasons

    def _standing_of(self, resource: Resource, one: Instance, reason: str) -> Standing:
        state = one.state
        if not one.live:
            if has_completed(state):
                return Standing("completed", "completed", one.id)
            return Standing("held", reason or "does not run", one.id)
        if runs_to_completion(resource.key.kind, resource.policy):
            return Standing("completing", "", one.id)
        if state.health_check is None:
            return Standing("running", "", one.id)
        return Standing("healthy" if state.health == "healthy" else "starting", state.health_detail, one.id)

    # ---- prune

    def _prune(self, allow_deletions: bool) -> list[Draft]:
        removals, kept = plan_prune(self.desired, self.observed, self.suspended)
        self.warnings += kept
        if not removals:
            return []
        if not self.resources:
            self.blocked[None] = Blocked(
                None,
                f"the manifest declares nothing, but {len(removals)} objects of the stack exist: nothing is removed",
                f"to remove the stack: holdfast destroy {self.desired.stack}",
            )
            return []
        excess = None if allow_deletions else over_budget(self.desired, self.observed, removals)
        if excess:
            self.blocked[None] = Blocked(None, excess, "--yes removes them; Stack: deletion_budget sets the limit")
            return []
        return removals

    # ---- order

    def _connect(self, removals: list[Draft]) -> dict[Key, int]:
        """Give every draft its predecessors, and drop those whose needs cannot be met; returns the order of keys."""
        from reconciler.graph import edges_of, ordered

        order = {key: place for place, key in enumerate(key for layer in ordered(self.desired) for key in layer)}
        replaced = self._recreate_networks()
        for key in order:
            resource = self.resources[key]
            needs = edges_of(resource, self.resources)
            own = self.drafts.get(key, [])
            if key.kind in ("service", "job") and not own and not self.only_drift:
                own = self._restarts(resource)
            for draft in list(own):
                if draft.verb in UNMAKING:
                    continue
                for need in needs:
                    made = [one for one in self.drafts.get(need.key, ()) if one.verb not in UNMAKING]
                    if draft.verb not in CREATING:
                        draft.after += made
                        continue
                    verdict = judge(need, made, self.standing.get(need.key, ()))
                    if verdict.held and draft.stopped_by is None:
                        self._give_up(draft, verdict.reason, verdict.until)
                        break
                    draft.after += made
                    if verdict.ids is not None:
                        draft.waits.append(Wait(need.key, need.condition, need.required, verdict.ids))
                        if not need.required:
                            draft.tolerates += made
            self._roll(resource)
        self._clear_ports(removals)
        add_removals(self.observed, self.drafts, removals, replaced)
        return order

    def _give_up(self, draft: Draft, reason: str, until: float) -> None:
        """Its needs cannot be met now: nothing is begun, and what runs goes on."""
        key = draft.key
        self.drafts[key].remove(draft)
        for drafts in self.drafts.values():
            for other in drafts:
                if draft in other.after:
                    other.after.remove(draft)
        if until:
            self.pending.setdefault((key, draft.index), Pending(key, draft.index, reason, until))
        else:
            self.blocked.setdefault(key, Blocked(key, reason))
        if draft.was_live:
            self._stand(key, Standing("running", "", draft.object_id))
        else:
            self._stand(key, Standing("held" if until else "blocked", reason, until=until))

    def _restarts(self, resource: Resource) -> list[Draft]:
        """Compose's `depends_on.restart`: running dependants of what is replaced start anew."""
        causes = [
            need.key
            for need in resource.needs
            if need.restart and any(one.verb in ("replace", "restart") for one in self.drafts.get(need.key, ()))
        ]
        if not causes or resource.key in self.suspended:
            return []
        for one in self.observed.instances.get(resource.key, ()):
            if one.state.status == "running":
                reason = Reason(text=f"{causes[0]} is replaced")
                self._draft(
                    Draft(
                        "restart", one.key, one.index, one.id, one.state.name, reasons=(reason,),
                        grace=_grace(one.policy), was_live=True,
                    )
                )  # fmt: skip
        return self.drafts.get(resource.key, [])

    def _recreate_networks(self) -> list[Draft]:
        """A network that is made anew first loses its users: they are stopped before, and started after."""
        made_anew = [one for drafts in self.drafts.values() for one in drafts if one.key.kind == "network"]
        made_anew = [one for one in made_anew if one.verb == "replace"]
        for network in made_anew:
            for key, found in self.observed.instances.items():
                if key not in self.resources:
                    continue
                for one in found:
                    if uses_network(one, network.object_name):
                        self._detach(network, one)
        return made_anew

    def _detach(self, network: Draft, one: Instance) -> None:
        own = [draft for draft in self.drafts.get(one.key, ()) if draft.object_id == one.id]
        removal = next((draft for draft in own if draft.verb == "remove"), None)
        if removal is not None:
            network.after.append(removal)
            return
        if not one.live:
            return
        for draft in own:
            if draft.verb == "repair":
                self.drafts[one.key].remove(draft)
        begin = next((draft for draft in own if draft.verb == "replace"), None)
        stop = next((draft for draft in own if draft.verb == "stop"), None)
        reason = Reason(text=f"{network.key} is made anew")
        if stop is None:
            stop = Draft(
                "stop", one.key, one.index, one.id, one.state.name, reasons=(reason,), grace=_grace(one.policy)
            )
            self._draft(stop)
        if begin is None:
            begin = next((draft for draft in own if draft.verb == "start"), None)
        if begin is None:
            begin = self._draft(Draft("start", one.key, one.index, one.id, one.state.name, reasons=(reason,)))
        elif begin.verb == "replace":
            begin.order, begin.order_reason = "stop-first", f"{network.key} is made anew"
        begin.after += [stop, network]
        begin.stopped_by = stop
        begin.was_live = True
        network.after.append(stop)

    def _roll(self, resource: Resource) -> None:
        """Replicas are replaced in batches of `update_config.parallelism` (0: all at once)."""
        update = (resource.policy or {}).get("update") or {}
        batch = int(update.get("parallelism", 1) or 0)
        rolling = [one for one in self.drafts.get(resource.key, ()) if one.verb == "replace"]
        if batch <= 0 or len(rolling) <= batch or any(one.stopped_by is not None for one in rolling):
            return
        for position, draft in enumerate(rolling):
            if position >= batch:
                start = (position // batch - 1) * batch
                draft.after += rolling[start : start + batch]
                draft.delay = float(update.get("delay") or 0.0)

    def _clear_ports(self, removals: list[Draft]) -> None:
        """A published port that moves from one service to another is let go before it is taken."""
        leaving = {draft.object_id: draft for drafts in self.drafts.values() for draft in drafts if draft.object_id}
        leaving |= {draft.object_id: draft for draft in removals}
        held: dict[tuple[int, str], list[tuple[Instance, Draft]]] = {}
        for found in self.observed.instances.values():
            for one in found:
                draft = leaving.get(one.id)
                if one.live and draft is not None and draft.verb in ("remove", "replace"):
                    for port in published(one):
                        held.setdefault(port, []).append((one, draft))
        if not held:
            return
        for key, drafts in list(self.drafts.items()):
            if key.kind not in ("service", "job"):
                continue
            taken = fixed_ports(self.resources[key].spec)
            for port in taken:
                for one, leaver in held.get(port, ()):
                    if one.key != key:
                        self._let_go(one, leaver, [draft for draft in drafts if draft.verb in CREATING])

    def _let_go(self, one: Instance, leaver: Draft, takers: list[Draft]) -> None:
        if not takers:
            return
        first = leaver
        if leaver.verb == "replace":
            if leaver.stopped_by is None:
                reason = Reason(text=f"{takers[0].key} takes over its published port")
                leaver.stopped_by = self._draft(
                    Draft("stop", one.key, one.index, one.id, one.state.name, reasons=(reason,), grace=leaver.grace)
                )
                leaver.after.append(leaver.stopped_by)
                leaver.order, leaver.order_reason = "stop-first", "its published port moves to another service"
            first = leaver.stopped_by
        for taker in takers:
            taker.after.append(first)


def count_replicas(resource: Resource) -> int:
    policy = resource.policy or {}
    wanted = policy.get("completions") if resource.key.kind == "job" else policy.get("replicas")
    return 1 if wanted is None else max(0, int(wanted))


def digest_basis(desired: Desired, observed: Observed) -> str:
    """Changes whenever the wish or the world changes in a way that may change the plan."""
    digest = hashlib.sha256()
    for key in sorted(desired.resources):
        resource = desired.resources[key]
        digest.update(f"{key} {resource.fingerprint} {resource.policy!r}\n".encode())
    for key in sorted(observed.instances):
        for one in observed.instances[key]:
            digest.update(f"{one.id} {one.state.status} {one.fingerprint}\n".encode())
    owned = [info.labels for info in observed.networks.values()] + [info.labels for info in observed.volumes.values()]
    for labels in owned:
        digest.update(f"{labels.get(LABEL_RESOURCE)} {labels.get(LABEL_FINGERPRINT)}\n".encode())
    return digest.hexdigest()


def _best(found: list[Instance]) -> Instance | None:
    """Of several containers of one replica, the one that has proven itself: live, healthy, oldest."""
    if not found:
        return None
    return min(found, key=lambda one: (not one.live, one.state.health == "unhealthy", one.state.created_at, one.id))


def _damage(damage: Iterable[object]) -> tuple[Reason, ...]:
    return tuple(
        Reason(str(getattr(one, "what", one)), show(getattr(one, "actual", "")), show(getattr(one, "expected", "")))
        for one in damage
    )


def _grace(policy: object) -> float | None:
    grace = policy.get("stop_grace") if isinstance(policy, dict) else None
    return None if grace is None else float(grace)


def _volume_names(spec: object) -> set[str]:
    mounts = spec.get("mounts") or [] if isinstance(spec, dict) else []
    return {mount.get("source", "") for mount in mounts if mount.get("kind") == "volume"}
