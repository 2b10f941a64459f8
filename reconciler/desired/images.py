"""Images of a stack: declared ones and those that services build, with the edges between their Dockerfiles."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reconciler.desired.codec import canonical, fingerprint
from reconciler.desired.facts import Facts
from reconciler.desired.requests import build_request, path_of
from reconciler.manifest.documents import IMAGE_NAME, Document
from reconciler.model import Key, Need, Resource
from schemas.suggest import did_you_mean

Json = Any


class Images:
    """`names` are all under which the manifests may mean an image of the stack; `built` maps a service with `build`
    to the image that it stands for."""

    def __init__(
        self,
        stack: str,
        documents: Sequence[Document],
        workloads: Sequence[Document],
        facts: Facts,
        report: Callable[..., None],
    ) -> None:
        self.stack = stack
        self.documents = documents
        self.workloads = workloads
        self.facts = facts
        self.report = report
        self.names: dict[str, Key] = {}
        self.built: dict[str, Key] = {}

    def resolve(self) -> dict[Key, Resource]:
        """Declared ones, and one for each service with `build`; bases come before what is built from them."""
        waiting: dict[Key, tuple[Document, str, Json, Json]] = {}
        object_names: dict[str, tuple[Key, Document, str]] = {}
        for document in [*(d for d in self.documents if d.kind == "Image"), *self.workloads]:
            if document.kind == "Image":
                name = document.spec.name or f"{self.stack}/{document.name}"
                made, policy = self.image_spec(document)
            elif document.spec.build is not None:
                name = document.spec.image or _image_name(f"{self.stack}-{document.name}")
                made, policy = self.build_spec(document, document.spec.build), self.image_policy(document)
            else:
                continue
            key = Key("image", document.name)
            if key in waiting:
                other = waiting[key][0]
                self.report(
                    document,
                    f'build: the image "{document.name}" is declared at {other.mark} too',
                    *(["build"] if document.kind != "Image" else []),
                )
                continue
            identity = canonical(made)
            earlier = object_names.setdefault(name, (key, document, identity))
            if earlier[0] != key:
                if earlier[2] != identity:
                    self.report(
                        document,
                        f'the image name "{name}" is also that of {earlier[1].title}, which differs',
                    )
                self.name_image(document, name, earlier[0])
                continue
            waiting[key] = (document, name, made, policy)
            self.name_image(document, name, key)
        done: dict[Key, Resource] = {}
        for key in waiting:
            self.finish_image(key, waiting, done, ())
        return done

    def name_image(self, document: Document, name: str, key: Key) -> None:
        """A service's name is not one of its image's names: `image: redis` beside a service redis means another."""
        self.names[name] = key
        if document.kind == "Image":
            self.names[document.name] = key
        else:
            self.built[document.name] = key

    def own(self, name: str) -> Key | None:
        return self.names.get(name) or self.names.get(name.removesuffix(":latest"))

    def finish_image(
        self, key: Key, waiting: Mapping[Key, tuple[Document, str, Json, Json]], done: dict[Key, Resource],
        path: tuple[Key, ...],
    ) -> Resource | None:  # fmt: skip
        """A build's fingerprint holds those of the images that it begins from, so bases are finished first."""
        if key in done:
            return done[key]
        document, name, spec, policy = waiting[key]
        if key in path:
            chain = " -> ".join(item.name for item in (*path[path.index(key) :], key))
            self.report(document, f"its Dockerfile builds on itself: {chain}")
            return None
        bases: list[Resource] = []
        build = spec["build"]
        if build is not None:
            names: dict[str, str] = {}
            for base in self.bases(document):
                base_key = self.own(base)
                if base_key is None or base_key == key:
                    continue
                resource = self.finish_image(base_key, waiting, done, (*path, key))
                if resource is not None:
                    bases.append(resource)
                    names[base] = resource.object_name
            build["images"] = dict(sorted(names.items()))
            build["base_fingerprints"] = sorted({resource.fingerprint for resource in bases})
            self.check_froms(document)
        needs = tuple(sorted({Need(resource.key) for resource in bases}, key=lambda need: need.key))
        done[key] = Resource(key, spec, policy, needs, fingerprint(spec), document.mark, name)
        return done[key]

    def bases(self, document: Document) -> tuple[str, ...]:
        fact = self.facts.builds.get((document.kind, document.name))
        return fact.bases if fact is not None else ()

    def check_froms(self, document: Document) -> None:
        fact = self.facts.builds.get((document.kind, document.name))
        for name in fact.froms if fact is not None else ():
            found = self.facts.images.get(name)
            if self.own(name) is None and found is not None and not found.present:
                self.report(document, self.absent(name, found.problem), "build")

    def image_policy(self, document: Document) -> Json:
        """Of the image that a service's `build` stands for."""
        policy = document.spec.pull_policy
        return {"pull_policy": policy if policy in ("build", "never") else "missing", "retain": False}

    def check_image_policy(self, document: Document) -> None:
        policy = document.spec.pull_policy
        timed = policy in ("daily", "weekly") or policy.startswith("every_")
        if policy == "always":
            self.report(document, '"always" is not supported yet: daily, weekly or every_<duration>', "pull_policy")
        elif timed and document.spec.archive is not None:
            self.report(document, f'an archive is what its file is, so "{policy}" cannot apply', "pull_policy")

    def image_spec(self, document: Document) -> tuple[Json, Json]:
        spec = document.spec
        self.check_image_policy(document)
        made: dict[str, Json] = {"archive": None, "bootstrap": None, "build": None}
        if spec.build is not None:
            made = self.build_spec(document, spec.build)
        elif spec.bootstrap is not None:
            boot = spec.bootstrap
            config = {key: value for key, value in boot.config.model_dump().items() if value not in (None, "", [], {})}
            if document.labels:
                config["Labels"] = dict(sorted({**document.labels, **boot.config.Labels}.items()))
            made["bootstrap"] = {
                "config": config or None,
                "mirror": boot.mirror,
                "packages": sorted(set(boot.packages)),
                "suite": boot.suite,
                "variant": boot.variant,
            }
        elif spec.archive is not None:
            fact = self.facts.archives.get((document.kind, document.name))
            if fact is not None and fact.problem:
                self.report(document, fact.problem.partition(": ")[2], "archive")
            path = path_of(document, spec.archive.path)
            made["archive"] = {"digest": fact.digest if fact else "", "path": path, "ref": spec.archive.ref}
            if document.labels:
                made["labels"] = dict(sorted(document.labels.items()))
        return made, {"pull_policy": spec.pull_policy, "retain": spec.retain}

    def build_spec(self, document: Document, build: Any) -> Json:
        fact = self.facts.builds.get((document.kind, document.name))
        if fact is not None and fact.problem:
            self.report(document, fact.problem, "build")
        request = build_request(document, build)
        return {
            "archive": None,
            "bootstrap": None,
            "build": {
                "args": dict(request.args),
                "base_fingerprints": [],
                "context": request.context,
                "digest": fact.digest if fact else "",
                "dockerfile": request.dockerfile if not request.dockerfile_inline else "",
                "dockerfile_inline": request.dockerfile_inline,
                "images": {},
                "labels": dict(request.labels),
                "network": request.network,
                "no_cache": request.no_cache,
                "target": request.target,
            },
        }

    def absent(self, name: str, problem: str) -> str:
        if problem:
            return f'image "{name}": {problem}'
        near = did_you_mean(name, self.names)
        return (
            f'image "{name}" is not present and pulling is not supported yet{near}: '
            "declare an Image (bootstrap, build or archive)"
        )


def _image_name(text: str) -> str:
    name = text.lower()
    return name if IMAGE_NAME.fullmatch(name) else re.sub(r"[^a-z0-9]+", "-", name).strip("-")
