"""What one planning writes down: drafts of actions, how every resource stands, what is blocked and what is pending."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from reconciler.differences import show
from reconciler.model import Desired, Key, Resource
from reconciler.observed import Observed
from reconciler.plan import Blocked, Hold, Pending, Reason
from reconciler.planner.drafts import Draft
from reconciler.planner.waiting import Standing

CREATING = ("create", "replace", "start", "restart")
UNMAKING = ("remove", "stop", "update")


class Sheet:
    """Filled by the modules of this package in turn; nothing of it outlives the plan."""

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

    def draft(self, draft: Draft) -> Draft:
        self.drafts.setdefault(draft.key, []).append(draft)
        return draft

    def stand(self, key: Key, state: Standing) -> None:
        self.standing.setdefault(key, []).append(state)

    def block(self, key: Key, reason: str, hint: str = "") -> None:
        self.blocked.setdefault(key, Blocked(key, reason, hint))
        self.stand(key, Standing("blocked", reason))

    def is_held(self, key: Key) -> bool:
        """A failed action is tried again later; what runs meanwhile is looked after as ever."""
        hold = self.held.get(key)
        if hold is None or hold.until <= self.now:
            return False
        self.pending.setdefault((key, 0), Pending(key, 0, hold.reason, hold.until))
        return True


def count_replicas(resource: Resource) -> int:
    policy = resource.policy or {}
    wanted = policy.get("completions") if resource.key.kind == "job" else policy.get("replicas")
    return 1 if wanted is None else max(0, int(wanted))


def damage_reasons(damage: Iterable[object]) -> tuple[Reason, ...]:
    return tuple(
        Reason(str(getattr(one, "what", one)), show(getattr(one, "actual", "")), show(getattr(one, "expected", "")))
        for one in damage
    )


def grace_of(policy: object) -> float | None:
    grace = policy.get("stop_grace") if isinstance(policy, dict) else None
    return None if grace is None else float(grace)
