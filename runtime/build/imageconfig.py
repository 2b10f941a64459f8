"""An image's configuration while its stage is built: every instruction's effect on it, as docker's, and the history."""

from __future__ import annotations

import copy
import json
import posixpath
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.build import instructions as ins
from runtime.build.dockerfile import Problem
from runtime.build.stages import host_platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
EPOCH = "1970-01-01T00:00:00Z"


class StageConfig:
    """The OCI image config of a stage so far; a new stage starts from a copy of its base's."""

    def __init__(self, base: Mapping[str, Any] | None) -> None:
        """`base` is a whole OCI image config, None for scratch."""
        whole: dict[str, Any] = copy.deepcopy(dict(base)) if base else {}
        system, arch, variant = host_platform()
        self.platform = {"os": whole.get("os") or system, "architecture": whole.get("architecture") or arch}
        if whole.get("variant") or (not base and variant):
            self.platform["variant"] = whole.get("variant") or variant
        self.values: dict[str, Any] = whole.get("config") or {}
        if base is None:
            self.values.update(Env=[f"PATH={DEFAULT_PATH}"], WorkingDir="/")
        self.history: list[dict[str, Any]] = list(whole.get("history") or [])
        self.created: str = whole.get("created") or EPOCH
        self.author: str = whole.get("author") or ""
        self.command_set = False

    def whole(self) -> dict[str, Any]:
        """The config to commit; `rootfs` is the store's."""
        config = {
            "created": self.created,
            **self.platform,
            "config": self.values,
            "history": self.history,
        }
        if self.author:
            config["author"] = self.author
        return config

    # ---- reading

    @property
    def env(self) -> dict[str, str]:
        return dict(item.partition("=")[::2] for item in self.values.get("Env") or [])

    @property
    def user(self) -> str:
        return str(self.values.get("User") or "")

    @property
    def workdir(self) -> str:
        return str(self.values.get("WorkingDir") or "/")

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.values.get("Shell") or DEFAULT_SHELL)

    def absolute(self, path: str) -> str:
        """`path` against the working directory; a trailing slash (also of `.`) is kept, it asks for a directory."""
        joined = posixpath.normpath(posixpath.join("/", self.workdir, path))
        joined = "/" + joined.lstrip("/")
        wants_directory = path.endswith("/") or posixpath.basename(path) in ("", ".", "..")
        return joined + "/" if wants_directory and joined != "/" else joined

    def take_triggers(self) -> list[str]:
        """The base's ONBUILD triggers; they run once and are not passed on."""
        return [str(trigger) for trigger in self.values.pop("OnBuild", None) or []]

    # ---- changing

    def record(self, created_by: str, empty: bool, created: str | None = None) -> None:
        """A line of history; without a time of its own it carries that of the layer before, so that rebuilds agree."""
        if created:
            self.created = max(created, self.created)
        entry: dict[str, Any] = {"created": created or self.created, "created_by": created_by}
        if self.author:
            entry["author"] = self.author
        if empty:
            entry["empty_layer"] = True
        self.history.append(entry)

    def set_env(self, name: str, value: str) -> None:
        env: list[str] = self.values.setdefault("Env", None) or []
        self.values["Env"] = env
        for at, item in enumerate(env):
            if item.partition("=")[0] == name:
                env[at] = f"{name}={value}"
                return
        env.append(f"{name}={value}")

    def set_label(self, name: str, value: str) -> None:
        self.values["Labels"] = {**(self.values.get("Labels") or {}), name: value}

    def _argv(self, command: ins.Command) -> list[str]:
        return [*self.shell, *command.argv] if command.shell and command.argv else list(command.argv)

    def set_command(self, command: ins.Cmd) -> None:
        self.values["Cmd"] = self._argv(command)
        self.command_set = True
        self.record(f"CMD {json.dumps(self.values['Cmd'], ensure_ascii=False)}", empty=True)

    def set_entrypoint(self, command: ins.Entrypoint) -> None:
        argv = self._argv(command)
        if argv:
            self.values["Entrypoint"] = argv
        else:
            self.values.pop("Entrypoint", None)
        if not self.command_set:  # a CMD for another entrypoint makes no sense with this one
            self.values.pop("Cmd", None)
        self.record(f"ENTRYPOINT {json.dumps(argv, ensure_ascii=False)}", empty=True)

    def set_health(self, command: ins.Healthcheck) -> None:
        durations = {
            "Interval": command.interval,
            "Timeout": command.timeout,
            "StartPeriod": command.start_period,
            "StartInterval": command.start_interval,
            "Retries": command.retries,
        }
        self.values["Healthcheck"] = {
            "Test": list(command.test),
            **{name: value for name, value in durations.items() if value},
        }
        self.record(f"HEALTHCHECK {command.text.split(None, 1)[-1].strip()}", empty=True)

    def expose(self, words: Sequence[str]) -> None:
        ports = self.values.get("ExposedPorts") or {}
        for word in words:
            for port in parse_exposed(word):
                ports[port] = {}
        self.values["ExposedPorts"] = ports
        self.record(f"EXPOSE {' '.join(words)}", empty=True)

    def add_volumes(self, paths: Sequence[str]) -> None:
        self.values["Volumes"] = {**(self.values.get("Volumes") or {}), **{path: {} for path in paths}}
        self.record(f"VOLUME {json.dumps(list(paths), ensure_ascii=False)}", empty=True)

    def set_stop_signal(self, text: str) -> None:
        name = text.upper()
        known = {item.name for item in signal.Signals} | {item.name[3:] for item in signal.Signals}
        realtime = re.fullmatch(r"(SIG)?RTM(IN(\+\d+)?|AX(-\d+)?)", name)
        if not (name in known or realtime or (text.isdigit() and 0 < int(text) <= 64)):
            raise Problem(f'invalid signal "{text}"')
        self.values["StopSignal"] = text
        self.record(f"STOPSIGNAL {text}", empty=True)

    def set_shell(self, argv: Sequence[str]) -> None:
        self.values["Shell"] = list(argv)
        self.record(f"SHELL {json.dumps(list(argv), ensure_ascii=False)}", empty=True)

    def set_user(self, user: str) -> None:
        self.values["User"] = user
        self.record(f"USER {user}", empty=True)

    def add_trigger(self, text: str) -> None:
        self.values["OnBuild"] = [*(self.values.get("OnBuild") or []), text]
        self.record(f"ONBUILD {text}", empty=True)

    def set_author(self, name: str) -> None:
        self.author = name
        self.record(f"MAINTAINER {name}", empty=True)


def parse_exposed(word: str) -> list[str]:
    """`80`, `80/udp`, `8000-8002`, `HOST:80` as the keys of ExposedPorts; Problem when it is none of them."""
    ports, slash, protocol = word.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    match = re.fullmatch(r"(?:.*:)?(\d+)(?:-(\d+))?", ports)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not match or protocol not in ("tcp", "udp", "sctp") or not 0 < first <= last <= 65535:
        raise Problem(f'invalid port "{word}"')
    return [f"{port}/{protocol}" for port in range(first, last + 1)]
