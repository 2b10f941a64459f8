"""What a source delivers: texts with their names, where their relative paths begin, and the variables they see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


class Variables:
    """Variables of one project directory: the caller's environment goes before the `.env` files.

    Remembers which names were asked for, because a cached result holds only as long as those keep their values.
    """

    __slots__ = ("_environ", "_file", "used")

    def __init__(self, environ: Mapping[str, str], file: Mapping[str, str] | None = None, used: set[str] | None = None):
        self._environ = environ
        self._file = dict(file or {})
        self.used: set[str] = set() if used is None else used

    def get(self, name: str) -> str | None:
        self.used.add(name)
        value = self._environ.get(name)
        return self._file.get(name) if value is None else value

    def from_caller(self, name: str) -> str | None:
        """What the process environment alone says."""
        self.used.add(name)
        return self._environ.get(name)

    def names(self) -> Iterable[str]:
        return {*self._file, *self._environ}

    def with_file(self, file: Mapping[str, str]) -> Variables:
        return Variables(self._environ, {**self._file, **file}, self.used)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One text. Files of one `group` are merged in order; two groups that define one thing are a conflict."""

    path: str
    """As it is shown in marks."""
    text: str = field(repr=False)
    kind: Literal["file", "override", "stdin"] = "file"
    directory: str = ""
    """Absolute; where native documents' relative paths begin."""
    project_dir: str = ""
    """Absolute; where a Compose file's relative paths begin."""
    group: int = 0
    variables: Variables = field(default_factory=lambda: Variables({}), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Source:
    files: tuple[SourceFile, ...]
    variables: Variables = field(repr=False, compare=False)
    base_dir: str
    revision: str
    """Digest of all the texts, the `.env` files included."""
    watched: tuple[str, ...] = ()
    """Absolute paths of every file read (manifests and `.env`), for those who watch."""
    excluded: tuple[str, ...] = ()
    """Absolute directories left out because they are build contexts."""
