"""Gives meaning to a Dockerfile's lines: typed instructions, grouped in stages, or every problem at once.

What is valid here is what the reference parser accepts; `instructions.find_unsupported` names what cannot be built yet.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from runtime.build.dockerfile import Heredoc, Node, Problem, parse_heredoc, parse_lines, reject
from runtime.build.instructions import (
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Pairs,
    Run,
    Shell,
    Stage,
    Stopsignal,
    User,
    Volume,
    Workdir,
)

# ---- flags ------------------------------------------------------------------------------------------------------


class _Flags:
    """Reads an instruction's `--name=value` words against the names it knows ("bool", "text" or "list")."""

    def __init__(self, node: Node, **known: str) -> None:
        self.values: dict[str, list[str]] = {}
        kinds = {name.replace("_", "-"): kind for name, kind in known.items()}
        for flag in node.flags:
            name, equals, value = flag[2:].partition("=")
            kind = kinds.get(name)
            if kind is None:
                near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.55)
                raise Problem(f"unknown flag: --{name}" + (f" (did you mean {near[0]}?)" if near else ""))
            if name in self.values and kind != "list":
                raise Problem(f"duplicate flag specified: --{name}")
            if kind == "bool":
                if equals and not value:
                    raise Problem(f"missing a value on flag: --{name}")
                if value.lower() not in ("", "true", "false"):
                    raise Problem(f"expecting boolean value for flag --{name}, not: {value}")
                value = value.lower() or "true"
            elif not equals:
                raise Problem(f"missing a value on flag: --{name}")
            self.values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        return self.values.get(name, [""])[0]

    def many(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def on(self, name: str) -> bool:
        return self.text(name) == "true"


def _one(node: Node, name: str) -> str:
    if len(node.args) != 1:
        raise Problem(f"{name} requires exactly one argument")
    _Flags(node)
    return node.args[0]


def _some(node: Node, name: str) -> list[str]:
    if not node.args:
        raise Problem(f"{name} requires at least one argument")
    _Flags(node)
    return node.args


# ---- one reader an instruction ----------------------------------------------------------------------------------


def _pairs(node: Node, name: str) -> Pairs:
    args = _some(node, name)
    keys, values = args[0::3], args[1::3]
    if not all(keys):
        raise Problem(f"{name} names can not be blank")
    return tuple(zip(keys, values, strict=True))


def _arg(node: Node) -> Instruction:
    values: list[tuple[str, str | None]] = []
    for word in _some(node, "ARG"):
        name, equals, value = word.partition("=")
        if equals and not name:
            raise Problem("ARG names can not be blank")
        values.append((name, value if equals else None))
    return Arg(node.line, node.text, tuple(values))


def _env(node: Node) -> Instruction:
    return Env(node.line, node.text, _pairs(node, "ENV"))


def _label(node: Node) -> Instruction:
    return Label(node.line, node.text, _pairs(node, "LABEL"))


def _copy(node: Node) -> Instruction:
    add = node.instruction.lower() == "add"
    name = "ADD" if add else "COPY"
    if not node.args:
        raise Problem(f"{name} requires at least two arguments, but none were provided")
    if len(node.args) == 1:
        raise Problem(
            f"{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    if add:
        flags = _Flags(
            node,
            chown="text",
            chmod="text",
            link="bool",
            keep_git_dir="bool",
            checksum="text",
            exclude="list",
            unpack="bool",
        )
    else:
        flags = _Flags(
            node, **{"from": "text"}, chown="text", chmod="text", link="bool", parents="bool", exclude="list"
        )
    *sources, dest = node.args
    if parse_heredoc(dest):
        raise Problem(f"{name} cannot accept a heredoc as a destination")
    bodies = {heredoc.name: heredoc for heredoc in node.heredocs}
    paths: list[str] = []
    documents: list[Heredoc] = []
    for source in sources:
        heredoc = None if node.json else parse_heredoc(source)
        if heredoc and heredoc.name in bodies:
            documents.append(bodies[heredoc.name])
        else:
            paths.append(source)
    return Copy(
        node.line,
        node.text,
        add,
        tuple(paths),
        tuple(documents),
        dest,
        origin=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.on("link"),
        parents=flags.on("parents"),
        exclude=flags.many("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.on("keep-git-dir"),
        unpack=flags.on("unpack") if flags.text("unpack") else None,
    )


def _argv(node: Node, args: list[str]) -> tuple[str, ...]:
    return tuple(args) if node.json or not args else (" ".join(args),)


def _run(node: Node) -> Instruction:
    flags = _Flags(node, mount="list", network="text", security="text", device="list")
    for mount in flags.many("mount"):
        for part in mount.split(","):
            key, _, value = part.partition("=")
            if key.lower() == "from" and re.search(r"\$.", value):
                raise Problem(f"'{key}' doesn't support variable expansion, define alias stage instead")
    network = flags.text("network") or "default"
    if network not in ("default", "none", "host"):
        raise Problem(f'invalid network mode "{network}"')
    security = flags.text("security") or "sandbox"
    if security not in ("sandbox", "insecure"):
        raise Problem(f'security "{security}" is not valid')
    return Run(
        node.line,
        node.text,
        _argv(node, node.args),
        not node.json,
        tuple(node.heredocs),
        tuple(sorted(flags.values)),
        flags.many("mount"),
        network,
        security,
        flags.many("device"),
    )


def _cmd(node: Node) -> Instruction:
    _Flags(node)
    return Cmd(node.line, node.text, _argv(node, node.args), not node.json, tuple(node.heredocs))


def _entrypoint(node: Node) -> Instruction:
    _Flags(node)
    return Entrypoint(node.line, node.text, _argv(node, node.args), not node.json, tuple(node.heredocs))


def _workdir(node: Node) -> Instruction:
    return Workdir(node.line, node.text, _one(node, "WORKDIR"))


def _user(node: Node) -> Instruction:
    return User(node.line, node.text, _one(node, "USER"))


def _stopsignal(node: Node) -> Instruction:
    return Stopsignal(node.line, node.text, _one(node, "STOPSIGNAL"))


def _maintainer(node: Node) -> Instruction:
    return Maintainer(node.line, node.text, _one(node, "MAINTAINER"))


def _expose(node: Node) -> Instruction:
    return Expose(node.line, node.text, tuple(sorted(_some(node, "EXPOSE"))))


def _volume(node: Node) -> Instruction:
    paths = tuple(path.strip() for path in _some(node, "VOLUME"))
    if not all(paths):
        raise Problem("VOLUME specified can not be an empty string")
    return Volume(node.line, node.text, paths)


def _shell(node: Node) -> Instruction:
    _Flags(node)
    if not node.json:
        raise Problem("SHELL requires the arguments to be in JSON form")
    if not node.args:
        raise Problem("SHELL requires at least one argument")
    return Shell(node.line, node.text, tuple(node.args))


def _onbuild(node: Node) -> Instruction:
    if not node.sub:
        raise Problem("ONBUILD requires at least one argument")
    _Flags(node)
    trigger = node.sub.instruction.upper()
    if trigger == "ONBUILD":
        raise Problem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise Problem(f"{trigger} isn't allowed as an ONBUILD trigger")
    text = re.sub(r"(?i)^\s*ONBUILD\s*", "", node.text)
    text += "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    return Onbuild(node.line, node.text, text)


_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> int:
    """Go's duration syntax ("1m30s") in nanoseconds."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total, at = 0.0, 0
    while at < len(rest):
        match = _DURATION.match(rest, at)
        if not match:
            break
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if not rest or at < len(rest):
        raise Problem(f'invalid duration "{text}"')
    return sign * round(total)


def _healthcheck(node: Node) -> Instruction:
    if not node.args:
        raise Problem("HEALTHCHECK requires at least one argument")
    kind, args = node.args[0].upper(), node.args[1:]
    if kind == "NONE":
        if args:
            raise Problem("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(node.line, node.text, ("NONE",))
    flags = _Flags(node, interval="text", timeout="text", start_period="text", start_interval="text", retries="text")
    if kind != "CMD":
        raise Problem(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    test = _argv(node, args)
    if not test:
        raise Problem("Missing command after HEALTHCHECK CMD")
    durations = {}
    for name in ("interval", "timeout", "start-period", "start-interval"):
        value = parse_duration(flags.text(name) or "0")
        if value and value < 10**6:
            raise Problem(f'Interval "{name}" cannot be less than 1ms')
        durations[name.replace("-", "_")] = value
    try:
        retries = int(flags.text("retries") or "0")
    except ValueError:
        raise Problem(f'--retries must be a number, not "{flags.text("retries")}"') from None
    if retries < 0:
        raise Problem(f"--retries cannot be negative ({retries})")
    kind = "CMD" if node.json else "CMD-SHELL"
    return Healthcheck(node.line, node.text, (kind, *test), retries=retries, **durations)


_PARSERS: dict[str, Callable[[Node], Instruction]] = {
    "add": _copy,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}


def _stage(node: Node) -> Stage:
    args = node.args
    name = ""
    if len(args) == 3 and args[1].lower() == "as":
        name = args[2].lower()
        if not re.fullmatch(r"[a-z][a-z0-9\-_.]*", name):
            raise Problem(
                f'invalid name for build stage: "{args[2]}", name can\'t start with a number or contain symbols'
            )
    elif len(args) != 1:
        raise Problem("FROM requires either one or three arguments")
    flags = _Flags(node, platform="text")
    return Stage(node.line, node.text, args[0], name, flags.text("platform"))


def _unknown(node: Node) -> Problem:
    near = difflib.get_close_matches(
        node.instruction.upper(), [n.upper() for n in (*_PARSERS, "from")], n=1, cutoff=0.6
    )
    return Problem(f"unknown instruction: {node.instruction}" + (f" (did you mean {near[0]}?)" if near else ""))


def _instruction(node: Node) -> Instruction:
    parser = _PARSERS.get(node.instruction.lower())
    if parser is None:
        raise _unknown(node)
    return parser(node)


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """The whole file, or InvalidSpec with every problem as `NAME:LINE: message`."""
    try:
        lines = parse_lines(text)
    except Problem as problem:
        raise reject(name, [problem]) from None
    args: list[Arg] = []
    stages: list[Stage] = []
    problems: list[Problem] = []
    from_failed = False
    for node in lines.nodes:
        try:
            if node.instruction.lower() == "from":
                stages.append(_stage(node))
                continue
            command = _instruction(node)
            if stages:
                stages[-1].commands.append(command)
            elif isinstance(command, Arg):
                args.append(command)
            elif not from_failed:
                raise Problem("no build stage in current context: the first instruction must be FROM or ARG")
        except Problem as problem:
            from_failed = from_failed or node.instruction.lower() == "from"
            problems.append(Problem(problem.message, node.line))
    if not stages and not problems:
        problems.append(Problem("no build stage in current context: the file has no FROM"))
    if problems:
        raise reject(name, problems)
    return Dockerfile(name, args, stages, lines.escape, lines.directives, lines.warnings)


def parse_trigger(text: str, line: int) -> Instruction:
    """An ONBUILD trigger of a base image, as if it stood at `line`."""
    nodes = parse_lines(text).nodes
    if len(nodes) != 1:
        raise Problem("an ONBUILD trigger must be one instruction", line)
    nodes[0].line = line
    return _instruction(nodes[0])
