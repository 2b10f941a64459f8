"""Makes one stack's desired state of its documents and of what was found outside them, or says all that is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from reconciler.desired import workload
from reconciler.desired.checks import check_networks, check_ports, check_workload
from reconciler.desired.codec import fingerprint
from reconciler.desired.facts import Facts, Place
from reconciler.desired.images import Images
from reconciler.desired.requests import bind_sources, seccomp_files
from reconciler.manifest.documents import STACK_NAME, Document, sort_problems
from reconciler.model import Condition, Desired, InputError, Key, Kind, Mark, Need, Problem, Resource, StackSettings
from schemas.suggest import did_you_mean

Json = Any
_CONDITIONS: Mapping[str, Condition] = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}


def resolve(documents: Sequence[Document], facts: Facts, profiles: Collection[str] = ()) -> Desired:
    resolution = Resolution(documents, facts, profiles)
    desired = resolution.resolve()
    if resolution.problems:
        raise InputError(sort_problems(resolution.problems))
    return desired


class Resolution:
    """One resolving. `named` are (kind, name) pairs that exist although their documents could not be read."""

    def __init__(
        self,
        documents: Sequence[Document],
        facts: Facts,
        profiles: Collection[str] = (),
        named: Collection[tuple[str, str]] = (),
    ) -> None:
        self.facts = facts
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.profiles = frozenset(profiles)
        self.documents = documents
        workloads = [d for d in documents if d.kind in ("Service", "Job")]
        self.workloads = {d.name: d for d in workloads if self.is_active(d)}
        self.inactive = {d.name: d for d in workloads if not self.is_active(d)}
        self.resources: dict[Key, Resource] = {}
        self.files: dict[str, tuple[bytes, bool]] = {}
        self.binds: list[tuple[str, Mark | None]] = []
        declared = {(document.kind, document.name) for document in documents}
        self.named = declared.union(named)
        self.unreadable = self.named - declared

    def is_active(self, document: Document) -> bool:
        wanted = document.spec.profiles
        return not wanted or "*" in self.profiles or bool(self.profiles.intersection(wanted))

    def report(self, document: Document, message: str, *path: Any, at_key: bool = False) -> None:
        attribute = f"{path[0]}: " if path else ""
        where = document.where(*path, at_key=at_key) if path else document.mark
        self.problems.append(Problem(f"{document.title}: {attribute}{message}", where))

    def resolve(self) -> Desired:
        self.settings = self.stack_settings()
        self.stack = self.settings.name
        self.awaited = self.find_awaited()
        for document in self.documents:
            if document.kind == "Network":
                self.add_network(document)
            elif document.kind == "Volume":
                self.add_volume(document)
            elif document.kind in ("Config", "Secret"):
                self.add_file(document)
        self.images = Images(self.stack, self.documents, list(self.workloads.values()), self.facts, self.report)
        self.resources.update(self.images.resolve())
        for document in self.workloads.values():
            self.add_workload(document)
        check_networks([d for d in self.documents if d.kind == "Network"], self.problems)
        check_ports(list(self.workloads.values()), self.problems)
        self.check_container_names()
        resources = dict(sorted(self.resources.items()))
        return Desired(
            self.settings,
            resources,
            self.files,
            tuple(sort_problems(self.warnings)),
            tuple(dict.fromkeys(self.binds)),
        )

    # ---- the stack ----------------------------------------------------------------------------------------------

    def stack_settings(self) -> StackSettings:
        native = [d for d in self.documents if d.kind == "Stack" and d.native]
        compose = [d for d in self.documents if d.kind == "Stack" and not d.native]
        names = {d.name: d for d in compose if d.name}
        name = native[0].name if native and native[0].name else ""
        if not name and len(names) > 1:
            first, second, *_ = names.values()
            self.problems.append(
                Problem(f'the stack is named "{second.name}" here and "{first.name}" at {first.mark}', second.mark)
            )
        name = name or next(iter(names), "") or self.facts.default_name
        if not name:
            self.problems.append(Problem("the stack has no name: add `name:` to the Compose file, or a Stack document"))
        elif not STACK_NAME.fullmatch(name) and not native and name not in names:
            self.problems.append(Problem(f'"{name}" is not a stack name: lower-case letters, digits, "-" and "_"'))
        for chosen in (*native, *compose):
            return StackSettings(name, chosen.spec.prune, chosen.spec.deletion_budget)
        return StackSettings(name)

    def object_name(self, document: Document) -> str:
        return document.spec.name or (document.name if document.spec.external else f"{self.stack}_{document.name}")

    def add(
        self, document: Document, kind: Kind, spec: Json, policy: Json = None, object_name: str = "",
        needs: Iterable[Need] = (), external: bool = False,
    ) -> None:  # fmt: skip
        key = Key(kind, document.name)
        self.resources[key] = Resource(
            key, spec, policy if policy is not None else {}, tuple(sorted(set(needs), key=_need_order)),
            fingerprint(spec), document.mark, object_name, external,
        )  # fmt: skip

    # ---- networks, volumes, files -------------------------------------------------------------------------------

    def add_network(self, document: Document) -> None:
        import ipaddress

        spec, options = document.spec, document.spec.driver_opts
        entries = sorted(
            (entry for entry in spec.ipam.config if entry.subnet),
            key=lambda entry: (ipaddress.ip_network(entry.subnet).version, entry.subnet),
        )
        ranges = [entry.ip_range for entry in entries if entry.ip_range]
        if len(ranges) > 1:
            self.report(document, "more than one ip_range is not supported yet", "ipam")
        made = {
            "bridge_name": options.get("com.docker.network.bridge.name", ""),
            "gateways": [entry.gateway for entry in entries if entry.gateway],
            "internal": spec.internal,
            "ip_range": ranges[0] if ranges else "",
            "ipv6": spec.enable_ipv6 or any(":" in entry.subnet for entry in entries),
            "labels": dict(sorted({**document.labels, **spec.labels}.items())),
            "masquerade": options.get("com.docker.network.bridge.enable_ip_masquerade", "true").lower() == "true",
            "mtu": int(options.get("com.docker.network.driver.mtu", 1500)),
            "subnets": [entry.subnet for entry in entries],
        }
        name = self.object_name(document)
        if spec.external and self.facts.networks is not None and name not in self.facts.networks:
            near = did_you_mean(name, self.facts.networks)
            self.report(document, f'external network "{name}" does not exist{near}')
        self.add(document, "network", made, {}, name, external=spec.external)

    def add_default_network(self, document: Document) -> str:
        """The network that services without `networks` share."""
        key = Key("network", "default")
        if key not in self.resources:
            spec = {
                "bridge_name": "", "gateways": [], "internal": False, "ip_range": "", "ipv6": False, "labels": {},
                "masquerade": True, "mtu": 1500, "subnets": [],
            }  # fmt: skip
            name = f"{self.stack}_default"
            self.resources[key] = Resource(key, spec, {}, (), fingerprint(spec), None, name)
        return self.resources[key].object_name

    def add_volume(self, document: Document) -> None:
        spec = document.spec
        retain = spec.retain if spec.retain is not None else bool(spec.x_holdfast.retain)
        made = {
            "driver_opts": dict(sorted(spec.driver_opts.items())),
            "labels": dict(sorted({**document.labels, **spec.labels}.items())),
        }
        name = self.object_name(document)
        if spec.external and self.facts.volumes is not None and name not in self.facts.volumes:
            near = did_you_mean(name, self.facts.volumes)
            self.report(document, f'external volume "{name}" does not exist{near}')
        self.add(document, "volume", made, {"retain": retain}, name, external=spec.external)

    def add_file(self, document: Document) -> None:
        fact = self.facts.files.get((document.kind, document.name))
        if fact is None:
            if not document.broken:
                self.report(document, "its content was not looked up")
            return
        if fact.problem:
            attribute, _, rest = fact.problem.partition(": ")
            self.report(document, rest, attribute)
            return
        for attribute in ("labels", "name"):
            if getattr(document.spec, attribute) or (attribute == "labels" and document.labels):
                text = f"{document.title}: {attribute}: has no effect: it is no object of its own here"
                self.warnings.append(Problem(text, document.where(attribute), "warning"))
        secret = document.kind == "Secret"
        self.files[fact.digest] = (fact.content, secret)
        kind: Kind = "secret" if secret else "config"
        self.add(document, kind, {"digest": fact.digest}, {}, self.object_name(document))

    # ---- services and jobs --------------------------------------------------------------------------------------

    def add_workload(self, document: Document) -> None:
        place: Place = (document.kind, document.name)
        check_workload(document, self.problems)
        self.problems.extend(self.facts.env_problems.get(place, ()))
        needs: list[Need] = []
        image, image_fingerprint = self.image_of(document, needs)
        parts: dict[str, Json] = {
            "image": image,
            "image_fingerprint": image_fingerprint,
            "networks": self.attachments(document, needs),
            "mounts": self.mounts(document, needs),
            "files": self.file_entries(document, needs),
        }
        self.check_targets(document)
        for option, path in seccomp_files(document):
            if self.facts.paths.get(path, "file") != "file":
                self.report(document, f'there is no file "{path}"', "security_opt", option)
        self.dependencies(document, needs)
        spec = workload.workload_spec(document, self.facts.env_files.get(place, {}), parts)
        policy = workload.workload_policy(document, document.name in self.awaited)
        self.add(document, "job" if document.kind == "Job" else "service", spec, policy, "", needs)

    def image_of(self, document: Document, needs: list[Need]) -> tuple[str, str]:
        spec = document.spec
        if spec.build is None and spec.image is None:
            if not document.lacks("image") and not document.lacks("build"):
                self.report(document, "needs an image or a build")
            return "", ""
        policy = spec.pull_policy or ""
        if policy in ("always", "daily", "weekly") or policy.startswith("every_"):
            self.report(document, f'"{policy}" is not supported yet: images cannot be pulled', "pull_policy")
        elif policy == "build" and spec.build is None:
            self.report(document, '"build" needs a build', "pull_policy")
        key = self.images.built.get(document.name) if spec.build is not None else self.images.own(spec.image)
        resource = self.resources.get(key) if key is not None else None
        if resource is not None:
            needs.append(Need(resource.key))
            return resource.key.name, resource.fingerprint
        if key is None and spec.build is None and ("Image", spec.image) not in self.named:
            fact = self.facts.images.get(spec.image)
            if fact is not None and not fact.present:
                message = f"{document.title}: {self.images.absent(spec.image, fact.problem)}"
                self.problems.append(Problem(message, document.where("image")))
        name = spec.image or ""
        # a plain name would be taken for the stack's image of that key
        return (f"{name}:latest" if Key("image", name) in self.resources else name), ""

    def declared(self, document: Document, kind: Kind, name: str, *path: Any) -> Resource | None:
        """The stack's resource of that name; says so when there is none."""
        resource = self.resources.get(Key(kind, name))
        if resource is None and (kind.capitalize(), name) not in self.named:
            near = did_you_mean(name, [key.name for key in self.resources if key.kind == kind])
            self.report(document, f'no {kind} "{name}"{near}', *path, at_key=True)
        return resource

    def attachments(self, document: Document, needs: list[Need]) -> list[Json]:
        spec = document.spec
        if spec.network_mode in ("none", "host"):
            return []
        names = [document.name, *([spec.container_name] if spec.container_name else [])]
        if not spec.networks:
            network = self.add_default_network(document)
            needs.append(Need(Key("network", "default")))
            return [_attachment(network, names, None)]
        result: list[Json] = []
        for name, entry in sorted(spec.networks.items(), key=lambda item: (-item[1].priority, item[0])):
            if name == "default" and Key("network", "default") not in self.resources:
                self.add_default_network(document)
            resource = self.declared(document, "network", name, "networks", name)
            if resource is not None:
                needs.append(Need(resource.key))
                result.append(_attachment(resource.object_name, names, entry))
        return result

    def mounts(self, document: Document, needs: list[Need]) -> list[Json]:
        result: list[Json] = []
        paths = dict(bind_sources(document))
        for index, item in enumerate(document.spec.volumes):
            entry = item.mount()
            for note in entry.notes:
                where = document.where("volumes", index)
                self.warnings.append(Problem(f"{document.title}: volumes: {note}", where, "warning"))
            source = ""
            if entry.type == "bind":
                source = paths[index]
                where = document.where("volumes", entry.source)
                self.binds.append((source, where))
                if self.facts.paths.get(source) == "":
                    self.problems.append(
                        Problem(f'{document.title}: volumes: bind source "{source}" does not exist', where)
                    )
            elif entry.type == "volume" and entry.source:
                resource = self.declared(document, "volume", entry.source, "volumes", entry.source)
                if resource is None:
                    continue
                needs.append(Need(resource.key))
                source = resource.object_name
            result.append(workload.mount(entry, source))
        result.extend(workload.mount(entry, "") for entry in document.spec.tmpfs)
        return sorted(result, key=lambda item: str(item["target"]))

    def file_entries(self, document: Document, needs: list[Need]) -> list[Json]:
        result: list[Json] = []
        kinds: tuple[tuple[Kind, str, Any], ...] = (
            ("config", "configs", document.spec.configs),
            ("secret", "secrets", document.spec.secrets),
        )
        for kind, attribute, references in kinds:
            for reference in references:
                resource = self.declared(document, kind, reference.source, attribute, reference.source)
                try:
                    target = workload.file_target(kind, reference)
                except ValueError as error:
                    self.report(document, str(error), attribute, reference.source)
                    continue
                if resource is None:
                    continue
                needs.append(Need(resource.key))
                result.append(
                    {
                        "digest": resource.spec["digest"],
                        "gid": reference.gid,
                        "mode": reference.mode,
                        "secret": kind == "secret",
                        "target": target,
                        "uid": reference.uid,
                    }
                )
        return sorted(result, key=lambda item: str(item["target"]))

    def check_targets(self, document: Document) -> None:
        spec, seen = document.spec, set[str]()
        targets = [
            *(("volumes", index, entry.target) for index, entry in enumerate(spec.volumes)),
            *(("tmpfs", index, entry.target) for index, entry in enumerate(spec.tmpfs)),
            *(("configs", index, _target("config", entry)) for index, entry in enumerate(spec.configs)),
            *(("secrets", index, _target("secret", entry)) for index, entry in enumerate(spec.secrets)),
        ]
        for attribute, index, target in targets:
            if target and target in seen:
                self.report(document, f'two things are mounted at "{target}"', attribute, index)
            seen.add(target)

    def find_awaited(self) -> set[str]:
        """Names of services that some other waits for to complete."""
        return {
            name
            for document in self.workloads.values()
            for name, dependency in document.spec.depends_on.items()
            if dependency.condition == "service_completed_successfully"
        }

    def dependencies(self, document: Document, needs: list[Need]) -> None:
        for name, dependency in sorted(document.spec.depends_on.items()):
            target = self.workloads.get(name)
            if target is None:
                unreadable = ("Service", name) in self.unreadable or ("Job", name) in self.unreadable
                if unreadable or not dependency.required:
                    continue
                if name in self.inactive:
                    wanted = ", ".join(self.inactive[name].spec.profiles)
                    self.report(
                        document, f'service "{name}" is only part of profile {wanted}', "depends_on", name, at_key=True
                    )
                else:
                    near = did_you_mean(name, [n for n in self.workloads if n != document.name])
                    self.report(document, f'no service "{name}"{near}', "depends_on", name, at_key=True)
                continue
            condition = _CONDITIONS[dependency.condition]
            if condition == "healthy":
                self.check_probed(document, target)
            if (
                condition == "completed"
                and target.kind == "Service"
                and target.spec.restart in ("always", "unless-stopped")
            ):
                self.report(
                    document, f'service "{name}" never completes: its restart is "{target.spec.restart}"',
                    "depends_on", name, at_key=True,
                )  # fmt: skip
            kind: Kind = "job" if target.kind == "Job" else "service"
            needs.append(Need(Key(kind, name), condition, dependency.required, dependency.restart))

    def check_probed(self, document: Document, target: Document) -> None:
        """Waiting for health that nothing probes would last for ever."""
        if target.lacks("healthcheck"):
            return
        check = workload.health(target.spec)
        bare = False
        if check is None and target.spec.build is None and target.spec.image is not None:
            key = self.images.own(target.spec.image)
            fact = self.facts.images.get(target.spec.image)
            bootstrapped = key in self.resources and self.resources[key].spec["bootstrap"] is not None if key else False
            bare = bootstrapped or (key is None and fact is not None and fact.present and not fact.probed)
        if bare or (check is not None and check["test"] == ["NONE"]):
            self.report(
                document, f'service "{target.name}" has no healthcheck, so it never becomes healthy',
                "depends_on", target.name, at_key=True,
            )  # fmt: skip

    def check_container_names(self) -> None:
        seen: dict[str, Document] = {}
        for document in self.workloads.values():
            name = document.spec.container_name
            if name and seen.setdefault(name, document) is not document:
                other = seen[name].where("container_name")
                self.report(
                    document, f'"{name}" is already the name of {seen[name].title} (at {other})', "container_name"
                )


def _target(kind: str, reference: Any) -> str:
    try:
        return workload.file_target(kind, reference)
    except ValueError:
        return ""


def _need_order(need: Need) -> tuple[Any, ...]:
    return (need.key, need.condition, need.required, need.restart)


def _attachment(network: str, names: Sequence[str], entry: Any) -> Json:
    aliases = {*names, *(entry.aliases if entry else ())}
    return {
        "aliases": sorted(aliases),
        "ipv4": entry.ipv4_address if entry else "",
        "ipv6": entry.ipv6_address if entry else "",
        "mac": entry.mac_address if entry else "",
        "network": network,
    }
