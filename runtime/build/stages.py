"""Works out which stages a build needs, in order, and what each is made from; touches no image and no file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.build.dockerfile import Problem, reject
from runtime.build.expand import ExpansionError, expand
from runtime.build.instructions import Copy, Dockerfile, Stage, find_unsupported
from runtime.errors import InvalidSpec

ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}


def host_platform() -> tuple[str, str, str]:
    """(os, architecture, variant) in the words of OCI."""
    machine = os.uname().machine
    return "linux", ARCHITECTURES.get(machine, machine), "v7" if machine == "armv7l" else ""


def platform_args() -> dict[str, str]:
    """The predefined arguments TARGETPLATFORM, BUILDARCH, … for a build on this host."""
    system, arch, variant = host_platform()
    platform = "/".join(filter(None, (system, arch, variant)))
    parts = {"PLATFORM": platform, "OS": system, "ARCH": arch, "VARIANT": variant}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in parts.items()}


@dataclass(slots=True)
class PlannedStage:
    """One needed stage; `base` is the earlier stage or the image it begins with ("" is scratch)."""

    index: int
    stage: Stage
    base: int | str
    origins: dict[str, int | str]
    """For each `--from` text: the earlier stage or the image it means."""

    @property
    def title(self) -> str:
        return self.stage.name or f"stage-{self.index}"

    @property
    def needs(self) -> set[int]:
        return {place for place in (self.base, *self.origins.values()) if isinstance(place, int)}


@dataclass(slots=True)
class BuildPlan:
    """`args` are those declared before the first FROM, with the predefined ones; the last stage is the result."""

    dockerfile: Dockerfile
    stages: list[PlannedStage]
    args: dict[str, str]


def plan_build(dockerfile: Dockerfile, target: str, given: Mapping[str, str]) -> BuildPlan:
    """The stages that `target` ("" is the last) needs, in the file's order; InvalidSpec with every problem."""
    problems: list[Problem] = []
    args = _global_args(dockerfile, given, problems)
    wanted = _find_target(dockerfile, target)
    planned: list[PlannedStage] = []
    for index, stage in enumerate(dockerfile.stages):
        try:
            base = _base_of(dockerfile, index, stage, args)
        except Problem as problem:
            problems.append(Problem(problem.message, problem.line or stage.line))
            base = ""
        planned.append(PlannedStage(index, stage, base, {}))
        for command in stage.commands:
            if isinstance(command, Copy) and command.origin:
                try:
                    planned[-1].origins[command.origin] = _origin_of(dockerfile, index, command.origin)
                except Problem as problem:
                    problems.append(Problem(problem.message, command.line))
    needed: set[int] = set()
    pending = [wanted]
    while pending:
        index = pending.pop()
        if index not in needed:
            needed.add(index)
            pending += planned[index].needs
    chosen = [stage for stage in planned if stage.index in needed]
    for stage_ in chosen:
        problems += find_unsupported(stage_.stage.commands)
    if problems:
        raise reject(dockerfile.name, problems)
    return BuildPlan(dockerfile, chosen, args)


def _global_args(dockerfile: Dockerfile, given: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    args = platform_args()
    args.update({name: value for name, value in given.items() if name in args})
    for command in dockerfile.args:
        for name, default in command.values:
            try:
                if name in given:
                    args[name] = given[name]
                elif default is not None:
                    args[name] = expand(default, args, dockerfile.escape)
            except ExpansionError as error:
                problems.append(Problem(f"ARG {name}: {error}", command.line))
    return args


def _find_target(dockerfile: Dockerfile, target: str) -> int:
    if not target:
        return len(dockerfile.stages) - 1
    names = [stage.name for stage in dockerfile.stages]
    for index in range(len(names) - 1, -1, -1):
        if names[index] and names[index] == target.lower():
            return index
    if target.isdigit() and int(target) < len(names):
        return int(target)
    near = difflib.get_close_matches(target.lower(), [name for name in names if name], n=1)
    raise InvalidSpec(
        f'cannot find build target "{target}": {dockerfile.name} has no such stage',
        f'did you mean "{near[0]}"?' if near else "",
    )


def _stage_named(dockerfile: Dockerfile, before: int, name: str) -> int | None:
    for index in range(before - 1, -1, -1):
        if dockerfile.stages[index].name and dockerfile.stages[index].name == name.lower():
            return index
    return None


def _base_of(dockerfile: Dockerfile, index: int, stage: Stage, args: Mapping[str, str]) -> int | str:
    try:
        name = expand(stage.base, args, dockerfile.escape)
        platform = expand(stage.platform, args, dockerfile.escape)
    except ExpansionError as error:
        raise Problem(str(error)) from None
    if not name:
        raise Problem(f"base name ({stage.base}) should not be blank: give the argument a default before FROM")
    if platform:
        system, arch, variant = host_platform()
        wanted = platform.lower().split("/")
        if wanted[:2] != [system, arch] or (variant and wanted[2:] not in ([], [variant])):
            raise Problem(f'platform "{platform}" is not supported yet: this host builds {system}/{arch}')
    earlier = _stage_named(dockerfile, index, name)
    if earlier is not None:
        return earlier
    return "" if name == "scratch" else name


def _origin_of(dockerfile: Dockerfile, index: int, origin: str) -> int | str:
    if "$" in origin:
        raise Problem("variable expansion is not supported for --from: define a stage with FROM and copy from that")
    earlier = _stage_named(dockerfile, index, origin)
    if earlier is not None:
        return earlier
    if origin.isdigit():
        if int(origin) >= index:
            raise Problem(f"invalid stage index {origin}: only earlier stages can be copied from")
        return int(origin)
    if any(stage.name == origin.lower() for stage in dockerfile.stages[index:]):
        raise Problem(f'stage "{origin}" is defined later: only earlier stages can be copied from')
    return origin
