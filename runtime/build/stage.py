"""Builds one stage: walks its instructions, keeps its configuration, makes or finds the layer of each step."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from runtime.api import BuildRequest, Progress
from runtime.build import copy
from runtime.build import instructions as ins
from runtime.build.cache import Step, StepCache, step_key
from runtime.build.context import FileDigests, tree_digest
from runtime.build.dockerfile import Problem, parse_heredoc, reject
from runtime.build.expand import ExpansionError, expand, expand_words
from runtime.build.imageconfig import DEFAULT_PATH, StageConfig
from runtime.build.parse import parse_trigger
from runtime.build.rootdir import RootThread, drop_unchanged
from runtime.build.sources import SourceTree
from runtime.build.stages import BuildPlan, PlannedStage
from runtime.build.unpack import open_archive, unpack
from runtime.container.users import resolve_user
from runtime.errors import BuildFailed, InvalidSpec, StartFailed
from runtime.image.content import Ingest
from runtime.image.store import ImageRecord, ImageStore
from runtime.snapshot.overlay import read_in_layers

RunStep = Callable[
    [list[str], str, str, list[str], list[str], str, str, str, Callable[[bytes], None], float | None], int
]
"""(lowers top first, upper, work, argv, env, cwd, user, network, output, timeout) -> exit code."""

PROXIES = tuple(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Arguments that RUN always sees and that never decide whether a step is cached."""

LAST_LINES = 20
_SCRIPT = ".holdfast-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What all stages of one build share."""

    store: ImageStore
    request: BuildRequest
    name: str
    plan: BuildPlan
    tell: Progress
    run_step: RunStep
    cache: StepCache
    context: SourceTree
    digests: FileDigests
    find_image: Callable[[str, int], ImageRecord]
    now: Callable[[], str]


@dataclass(frozen=True, slots=True)
class StageResult:
    """`config` is a whole OCI image config; `layers` are diff ids, base first; `args` pass on to stages built on it."""

    config: dict[str, Any]
    layers: list[str]
    args: dict[str, str]


class StageBuild:
    def __init__(
        self,
        inputs: Inputs,
        planned: PlannedStage,
        done: Mapping[int, StageResult],
        check: Callable[[], None],
    ) -> None:
        self.inputs = inputs
        self.request = inputs.request
        self.file = inputs.plan.dockerfile.name
        self.escape = inputs.plan.dockerfile.escape
        self.planned = planned
        self.done = done
        self.check = check
        self.args: dict[str, str] = {}
        self.layers: list[str] = []
        self.config = self._start()
        self.prefix = ""

    def _start(self) -> StageConfig:
        base = self.planned.base
        if base == "":
            return StageConfig(None)
        if isinstance(base, int):
            result = self.done[base]
            self.args, self.layers = dict(result.args), list(result.layers)
            return StageConfig(result.config)
        record = self.inputs.find_image(base, self.planned.stage.line)
        self.layers = list(record.layers)
        config = StageConfig(record.config)
        if "PATH" not in config.env:
            config.set_env("PATH", DEFAULT_PATH)
        return config

    def run(self) -> StageResult:
        commands = [*self._triggers(), *self.planned.stage.commands]
        total = len(commands) + 1
        base = self.planned.stage
        self.inputs.tell(f"[{self.planned.title} 1/{total}] FROM {base.text.split(None, 1)[-1].strip()}")
        for number, command in enumerate(commands, 2):
            self.check()
            self.prefix = f"[{self.planned.title} {number}/{total}]"
            try:
                self._apply(command)
            except Problem as problem:
                raise reject(self.file, [Problem(problem.message, problem.line or command.line)]) from None
            except ExpansionError as error:
                raise reject(self.file, [Problem(f"{self._title(command)}: {error}", command.line)]) from None
            except copy.CopyError as error:
                raise self._failure(command, str(error)) from None
        return StageResult(self.config.whole(), self.layers, self.args)

    def _triggers(self) -> list[ins.Instruction]:
        line = self.planned.stage.line
        try:
            triggers = [parse_trigger(text, line) for text in self.config.take_triggers()]
        except Problem as problem:
            raise reject(self.file, [Problem(f"ONBUILD of the base image: {problem.message}", line)]) from None
        if problems := ins.find_unsupported(triggers):
            raise reject(self.file, problems)
        return triggers

    # ---- words and messages

    def _title(self, command: ins.Instruction) -> str:
        text = " ".join(command.text.split())
        return text if len(text) <= 120 else text[:117] + "..."

    def _failure(self, command: ins.Instruction, cause: str) -> BuildFailed:
        return BuildFailed(
            f'cannot build image "{self.inputs.name}": {self.file}:{command.line}: {self._title(command)}: {cause}'
        )

    def _expand(self, word: str) -> str:
        return expand(word, {**self.args, **self.config.env}, self.escape)

    def _pairs(self, values: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        # one look at the variables for the whole instruction, as in `ENV a=1 b=$a`
        scope = {**self.args, **self.config.env}
        return [(expand(key, scope, self.escape), expand(value, scope, self.escape)) for key, value in values]

    # ---- instructions

    def _apply(self, command: ins.Instruction) -> None:
        if isinstance(command, ins.Run):
            return self._run(command)
        if isinstance(command, ins.Copy):
            return self._copy(command)
        if isinstance(command, ins.Workdir):
            return self._workdir(command)
        self.inputs.tell(f"{self.prefix} {self._title(command)}")
        config = self.config
        match command:
            case ins.Arg():
                self._declare(command)
            case ins.Env():
                for key, value in (pairs := self._pairs(command.values)):
                    config.set_env(key, value)
                config.record("ENV " + " ".join(f"{key}={value}" for key, value in pairs), empty=True)
            case ins.Label():
                for key, value in (pairs := self._pairs(command.values)):
                    config.set_label(key, value)
                config.record("LABEL " + " ".join(f"{key}={value}" for key, value in pairs), empty=True)
            case ins.User():
                config.set_user(self._expand(command.user))
            case ins.Expose():
                scope = {**self.args, **config.env}
                config.expose([word for port in command.ports for word in expand_words(port, scope, self.escape)])
            case ins.Volume():
                config.add_volumes([self._expand(path) for path in command.paths])
            case ins.Stopsignal():
                config.set_stop_signal(self._expand(command.signal))
            case ins.Shell():
                config.set_shell(command.argv)
            case ins.Cmd():
                config.set_command(command)
            case ins.Entrypoint():
                config.set_entrypoint(command)
            case ins.Healthcheck():
                config.set_health(command)
            case ins.Onbuild():
                config.add_trigger(command.trigger)
            case ins.Maintainer():
                config.set_author(command.name)

    def _declare(self, command: ins.Arg) -> None:
        shown = []
        for key, default in command.values:
            name = self._expand(key)
            value = self.request.args.get(name)
            if value is None:
                value = self._expand(default) if default is not None else self.inputs.plan.args.get(name)
            if value is not None:
                self.args[name] = value
            shown.append(name if value is None else f"{name}={value}")
        self.config.record(f"ARG {' '.join(shown)}", empty=True)

    def _workdir(self, command: ins.Workdir) -> None:
        path = self.config.absolute(self._expand(command.path)).rstrip("/") or "/"
        self.config.values["WorkingDir"] = path
        owner = self._owner(command, self.config.user) if self.config.user else (0, 0)

        def make(ingest: Ingest, upper: str, work: str) -> None:
            root = RootThread(ingest.path)

            def inside() -> None:
                root.enter_root(self._lowers(self.layers), upper, work)
                copy.make_directories(path, owner)

            root.call(inside)

        self._layer(command, ["WORKDIR", path, owner], make, f"WORKDIR {path}")

    def _run(self, command: ins.Run) -> None:
        argv, script = self._command_line(command)
        env = self.config.env
        used = {name: value for name, value in self.args.items() if name not in env}
        network = command.network if command.network != "default" else self.request.network
        fixed = [f"{name}={value}" for name, value in {**env, **used}.items()]
        proxies = [
            f"{name}={self.request.args[name]}"
            for name in PROXIES
            if name in self.request.args and name not in env and name not in used
        ]
        definition = ["RUN", argv, script, fixed, self.config.workdir, self.config.user, network]

        def make(ingest: Ingest, upper: str, work: str) -> None:
            lowers = self._lowers(self.layers)
            if not lowers:
                os.mkdir(f"{ingest.path}/empty", 0o755)
                lowers = [f"{ingest.path}/empty"]
            if script:
                with open(f"{upper}/{_SCRIPT}", "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(script)
                os.chmod(f"{upper}/{_SCRIPT}", 0o755)  # noqa: S103
            self._run_container(command, lowers, upper, work, argv, [*fixed, *proxies], network)
            if script and os.path.lexists(f"{upper}/{_SCRIPT}"):
                os.unlink(f"{upper}/{_SCRIPT}")

        shown = " ".join(argv)
        if used:
            shown = f"|{len(used)} {' '.join(f'{name}={value}' for name, value in used.items())} {shown}"
        self._layer(command, definition, make, f"RUN {shown}")

    def _command_line(self, command: ins.Run) -> tuple[list[str], str]:
        """The words to execute, and the text of a script that one heredoc with `#!` is."""
        words = list(command.argv)
        script = ""
        if command.documents and command.shell:
            first = command.documents[0]
            if parse_heredoc(words[0]):
                if first.text.startswith("#!"):
                    words, script = [f"/{_SCRIPT}"], first.text
                else:
                    words = [first.text]
            else:
                words = ["\n".join([words[0], *(item.content + item.name for item in command.documents)])]
        return ([*self.config.shell, *words] if command.shell else words), script

    def _run_container(
        self,
        command: ins.Run,
        lowers: list[str],
        upper: str,
        work: str,
        argv: list[str],
        env: list[str],
        network: str,
    ) -> None:
        last: deque[str] = deque(maxlen=LAST_LINES)

        def output(data: bytes) -> None:
            self.check()
            for line in data.decode("utf-8", "replace").removesuffix("\n").split("\n"):
                line = line.rstrip("\r")
                last.append(line)
                self.inputs.tell(f"{self.prefix}   {line}")

        config = self.config
        if not argv:
            raise self._failure(command, "no command to run")
        try:
            code = self.inputs.run_step(
                lowers, upper, work, argv, env, config.workdir, config.user, network, output, None
            )
        except (StartFailed, InvalidSpec) as error:
            raise self._failure(command, str(error)) from None
        if code != 0:
            tail = "".join(f"\n  {line}" for line in last)
            raise self._failure(command, f"exit code {code}{'; its last output:' if tail else ''}{tail}")

    def _copy(self, command: ins.Copy) -> None:
        sources = [self._expand(source) for source in command.sources]
        for source in sources if command.add else ():
            if ins.is_remote(source):
                raise Problem(f'ADD from a URL or a git repository ("{source}") is not supported yet')
        dest = self.config.absolute(self._expand(command.dest))
        chown = self._expand(command.chown)
        owner = self._owner(command, chown) if chown else None
        mode = copy.parse_mode(self._expand(command.chmod)) if command.chmod else None
        scope = {**self.args, **self.config.env}
        documents = [
            (item.name, expand(item.text, scope, self.escape, quotes=False) if item.expand else item.text)
            for item in command.documents
        ]
        origin = self._origin(command)
        if origin is None:
            content: Any = tree_digest(self.inputs.context, sources, self.inputs.digests)
            owner = owner or (0, 0)
        else:
            content = origin
        verb = "ADD" if command.add else "COPY"

        def make(ingest: Ingest, upper: str, work: str) -> None:
            root = RootThread(ingest.path)

            def check() -> None:
                root.check()
                self.check()

            manner = copy.Manner(owner, mode, check)

            def inside() -> None:
                with ExitStack() as open_things:
                    tree = self.inputs.context
                    if origin is not None:
                        tree = root.mount_source(self._lowers(origin))
                        open_things.callback(tree.close)
                    found = copy.matches(tree, sources)
                    archives = [open_archive(tree, match) if command.add else None for match in found]
                    for archive in archives:
                        if archive is not None:
                            open_things.callback(archive.close)
                    root.enter_root(self._lowers(self.layers), upper, work)
                    copy.needs_directory(dest, len(found) + len(documents))
                    into = dest.endswith("/")
                    for match, archive in zip(found, archives, strict=True):
                        if archive is not None:
                            unpack(archive, dest, owner or (0, 0), check)
                        else:
                            copy.copy_match(tree, match, dest, into, manner)
                    for name, text in documents:
                        copy.write_document(dest, name, text.encode("utf-8", "surrogateescape"), into, manner)

            root.call(inside)

        definition = [verb, sources, dest, owner, mode, content, documents]
        self._layer(command, definition, make, self._title(command))

    def _origin(self, command: ins.Copy) -> list[str] | None:
        """The layers that `--from` names; None for the context."""
        if not command.origin:
            return None
        place = self.planned.origins.get(command.origin, command.origin)
        if isinstance(place, int):
            return self.done[place].layers
        return list(self.inputs.find_image(place, command.line).layers)

    # ---- layers

    def _lowers(self, layers: Sequence[str]) -> list[str]:
        return [self.inputs.store.layer_dir(layer) for layer in reversed(layers)]

    def _owner(self, command: ins.Instruction, text: str) -> tuple[int, int]:
        """`user[:group]` looked up inside the image; a bare number is both ids, as in docker."""
        if text.isdigit():
            return int(text), int(text)
        lowers = self._lowers(self.layers)

        def read(path: str) -> str:
            return (read_in_layers(lowers, None, path) or b"").decode("utf-8", "replace")

        try:
            identity = resolve_user(text, (), read)
        except InvalidSpec as error:
            raise self._failure(command, str(error)) from None
        return identity.uid, identity.gid

    def _layer(
        self,
        command: ins.Instruction,
        definition: Sequence[Any],
        make: Callable[[Ingest, str, str], None],
        created_by: str,
    ) -> None:
        """One step that may change files: found in the cache, or made by `make(ingest, upper, work)`."""
        store = self.inputs.store
        key = step_key(self.layers, definition)
        step = None if self.request.no_cache else self.inputs.cache.find(key)
        if step is not None:
            self.inputs.tell(f"{self.prefix} CACHED {self._title(command)}")
        else:
            self.inputs.tell(f"{self.prefix} {self._title(command)}")
            with store.ingest() as ingest:
                upper, work = f"{ingest.path}/upper", f"{ingest.path}/work"
                os.mkdir(upper)
                os.chmod(upper, 0o755)  # noqa: S103
                os.mkdir(work)
                make(ingest, upper, work)
                drop_unchanged(self._lowers(self.layers), upper)
                step = Step(self._add_layer(command, upper) if os.listdir(upper) else "", self.inputs.now())
            self.inputs.cache.keep(key, step)
        if step.layer:
            self.layers.append(step.layer)
        self.config.record(created_by, empty=not step.layer, created=step.created)

    def _add_layer(self, command: ins.Instruction, upper: str) -> str:
        try:
            return self.inputs.store.add_layer_from_dir(upper)
        except InvalidSpec as error:  # a file whose name means something else in a layer
            raise self._failure(command, str(error)) from None
