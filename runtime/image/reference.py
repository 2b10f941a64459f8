"""Image names: docker's grammar, and the one short form under which the store keeps a name."""

from __future__ import annotations

import re

from runtime.errors import InvalidSpec
from runtime.value import value

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
_PATTERN = re.compile(
    rf"(?:(?P<host>{_HOST}(?::[0-9]+)?)/)??(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{4,64}")
DEFAULT_HOST = "docker.io"
LONGEST = 255


@value
class Reference:
    """A parsed name; `host` is "docker.io" and `tag` "latest" where the text leaves them out."""

    host: str
    path: str
    tag: str
    digest: str = ""

    @property
    def short(self) -> str:
        """What a user would type: no default host, no `library/`, no `:latest`."""
        path = self.path
        if self.host == DEFAULT_HOST:
            path = path.removeprefix("library/")
            # `library/` stays where what follows would read as a host, so that parsing the short form leads back here
            if _is_host(path.split("/", 1)[0]) and "/" in path:
                path = f"library/{path}"
        else:
            path = f"{self.host}/{path}"
        tag = f":{self.tag}" if self.tag and self.tag != "latest" else ""
        return f"{path}{tag}@{self.digest}" if self.digest else f"{path}{tag}"

    @property
    def full(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    match = _PATTERN.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        hint = "names are lower case: [host/]path[:tag]"
        if len(text) > LONGEST:
            text, hint = text[:40] + "…", f"a name has at most {LONGEST} characters"
        raise InvalidSpec(f'cannot use image name "{text}": not a valid name', hint)
    host, path = match["host"] or "", match["path"]
    if host and not _is_host(host):
        # a first component without dot, port or `localhost` is part of the path on the default host
        if not re.fullmatch(_COMPONENT, host):
            raise InvalidSpec(f'cannot use image name "{text}": not a valid name', "names are lower case")
        host, path = "", f"{host}/{path}"
    elif not host and "/" in path and _is_host(path.split("/", 1)[0]):
        host, path = path.split("/", 1)
    host = host or DEFAULT_HOST
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in path:
        path = f"library/{path}"
    digest = match["digest"] or ""
    return Reference(host, path, match["tag"] or ("" if digest else "latest"), digest)


def short_name(text: str) -> str:
    """The store's key for a name: `nginx`, `nginx:latest` and `docker.io/library/nginx` are one image."""
    return parse(text).short


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def may_be_id(text: str) -> bool:
    """True for a full id or a prefix of one long enough to be meant as such."""
    return _ID.fullmatch(text) is not None


def _is_host(component: str) -> bool:
    return "." in component or ":" in component or component == "localhost" or component != component.lower()
