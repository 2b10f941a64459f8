"""The instructions of a Dockerfile as values, the stages that hold them, and which of them cannot be built yet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime.build.dockerfile import Heredoc, Problem

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    line: int
    text: str
    """As written, continuations joined."""


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    values: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    values: Pairs


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    values: Pairs


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """COPY, or ADD when `add`. `documents` are sources written in the Dockerfile itself."""

    add: bool
    sources: tuple[str, ...]
    documents: tuple[Heredoc, ...]
    dest: str
    origin: str = ""
    """`--from`."""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None


@dataclass(frozen=True, slots=True)
class Command(Instruction):
    """RUN, CMD or ENTRYPOINT; `shell` when the words are for the shell."""

    argv: tuple[str, ...]
    shell: bool
    documents: tuple[Heredoc, ...]


@dataclass(frozen=True, slots=True)
class Run(Command):
    flags: tuple[str, ...]
    """Names of the flags used, sorted."""
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cmd(Command):
    pass


@dataclass(frozen=True, slots=True)
class Entrypoint(Command):
    pass


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    """Durations in nanoseconds, 0 for unset, as in an image's configuration."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Stopsignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True, slots=True)
class Onbuild(Instruction):
    trigger: str


@dataclass(slots=True)
class Stage:
    line: int
    text: str
    base: str
    name: str
    platform: str
    commands: list[Instruction] = field(default_factory=list)


@dataclass(slots=True)
class Dockerfile:
    """`args` stand before the first FROM; `name` is what messages call the file."""

    name: str
    args: list[Arg]
    stages: list[Stage]
    escape: str
    directives: dict[str, str]
    warnings: list[str]


# ---- not yet ----------------------------------------------------------------------------------------------------

_REMOTE = re.compile(r"(https?://|git://|ssh://|git@)|.*\.git(#.*)?$")


def is_remote(source: str) -> bool:
    """A URL or git repository as a source of ADD."""
    return bool(_REMOTE.match(source))


def find_unsupported(commands: Iterable[Instruction]) -> list[Problem]:
    """What is valid Dockerfile language and not built yet; each with its line."""
    problems = []
    for command in commands:
        missing: list[str] = []
        if isinstance(command, Run):
            missing = [f"RUN --{flag}" for flag in command.flags if flag not in ("network",)]
            if command.security == "sandbox" and "RUN --security" in missing:
                missing.remove("RUN --security")
        elif isinstance(command, Copy):
            verb = "ADD" if command.add else "COPY"
            wanted = (
                ("--parents", command.parents),
                ("--exclude", bool(command.exclude)),
                ("--checksum", bool(command.checksum)),
                ("--keep-git-dir", command.keep_git_dir),
                ("--unpack", command.unpack is not None),
            )
            missing = [f"{verb} {flag}" for flag, used in wanted if used]
            if command.add:
                missing += [f'ADD from a URL or a git repository ("{s}")' for s in command.sources if is_remote(s)]
        problems += [Problem(f"{what} is not supported yet", command.line) for what in missing]
    return problems
