"""What was found outside the manifests, as values: all that `resolve` may know besides the documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.model import Problem

Place = tuple[str, str]
"""(document kind, name)."""


@dataclass(frozen=True, slots=True)
class FileFact:
    """Content of a config or secret, or why it cannot be had. `recipe` says where it came from: "file", "environment"
    or "content", and the path, variable or (for a config only) text."""

    digest: str = ""
    content: bytes = field(default=b"", repr=False)
    problem: str = ""
    recipe: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class BuildFact:
    """Digest of a build's inputs and the image names that its Dockerfile begins from or copies from."""

    digest: str = ""
    problem: str = ""
    bases: tuple[str, ...] = ()
    """FROM, and --from= of COPY and RUN."""
    froms: tuple[str, ...] = ()
    """FROM alone: these must be present."""


@dataclass(frozen=True, slots=True)
class ImageFact:
    """An image that no manifest of the stack declares. `probed`: it brings a health check of its own."""

    present: bool
    probed: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    default_name: str = ""
    env_files: Mapping[Place, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """What all env files of a service give together, the later ones winning."""
    env_problems: Mapping[Place, tuple[Problem, ...]] = field(default_factory=dict)
    files: Mapping[Place, FileFact] = field(default_factory=dict, repr=False)
    builds: Mapping[Place, BuildFact] = field(default_factory=dict)
    archives: Mapping[Place, FileFact] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    """Absolute host path -> "file", "directory", "other", or "" when there is none."""
    images: Mapping[str, ImageFact] = field(default_factory=dict)
    networks: frozenset[str] | None = None
    volumes: frozenset[str] | None = None
    """Names that exist, for the check of external ones; None when none is declared."""
