"""The host's own apt set-up, as far as a bootstrap of one suite needs it: sources, transport options, credentials."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_POCKETS = ("", "-updates", "-security", "-backports")
_ALIASES = frozenset({"stable", "testing", "unstable", "oldstable"})
_KEPT_OPTIONS = re.compile(
    r"Acquire::(Check-Valid-Until|Check-Date|ForceIPv4|ForceIPv6|Retries|ProxyAutoDetect|Proxy-Auto-Detect"
    r"|(http|https|ftp)::.*)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One line of a sources.list: type deb, options as written between the brackets."""

    options: tuple[str, ...]
    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        options = f"[{' '.join(self.options)}] " if self.options else ""
        return " ".join(f"deb {options}{self.uri} {self.suite} {' '.join(self.components)}".split())


def host_codename(path: str = "/etc/os-release") -> str:
    """The host's suite ("bookworm", "noble"), or "" where os-release does not say."""
    try:
        with open(path) as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                if key == "VERSION_CODENAME":
                    return value.strip("\"'")
    except OSError:
        pass
    return ""


def sources_for(suite: str, etc: str = "/etc/apt", codename: str | None = None) -> list[Source]:
    """The host's sources of the distribution's main archive, for `suite`: another suite takes the host's mirrors.

    Third-party repositories are left out: a bootstrap is the distribution's own packages. Empty when the host has none.
    """
    codename = host_codename() if codename is None else codename
    pockets = {codename + pocket: pocket for pocket in _POCKETS}
    found = []
    for source in _host_sources(etc):
        if "main" not in source.components:
            continue
        if source.suite in pockets:
            wanted = suite + pockets[source.suite]
        elif source.suite.split("-", 1)[0] in _ALIASES and suite == codename:
            wanted = source.suite
        else:
            continue
        found.append(Source(source.options, source.uri, wanted, source.components))
    return list(dict.fromkeys(found))


def _host_sources(etc: str) -> Iterator[Source]:
    parts = sorted(glob.glob(f"{etc}/sources.list.d/*"))
    for path in [f"{etc}/sources.list", *parts]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if path.endswith(".sources"):
            yield from _deb822(text)
        elif path.endswith(".list"):
            yield from _one_line(text)


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)", line)
        if match:
            yield Source(tuple((match[1] or "").split()), match[2], match[3], tuple(match[4].split()))


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n[ \t]*(?:\n|$)", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and key:
                fields[key] += "\n" + line.strip()
            else:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        options = []
        signed = fields.get("signed-by", "")
        if signed and "\n" not in signed:  # a key given inline has no place in a one-line source
            options.append("signed-by=" + ",".join(signed.split()))
        for field, option in (("architectures", "arch"), ("trusted", "trusted")):
            if fields.get(field):
                options.append(f"{option}={','.join(fields[field].split())}")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(tuple(options), uri, suite, tuple(fields.get("components", "").split()))


def transport_options() -> list[str]:
    """Lines of apt.conf that let apt reach the host's mirrors: proxies, date checks, certificates, credentials."""
    try:
        dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = []
    for line in dump.splitlines():
        name, _, value = line.partition(" ")
        if _KEPT_OPTIONS.fullmatch(name.removesuffix("::")) and value.strip() not in ('"";', ""):
            lines.append(line)
    for option, path in (("netrc", "/etc/apt/auth.conf"), ("netrcparts", "/etc/apt/auth.conf.d")):
        if os.path.isfile(path) or (os.path.isdir(path) and os.listdir(path)):
            lines.append(f'Dir::Etc::{option} "{path}";')
    return lines
