"""Finds the build contexts that a manifest names, without validating anything: a source leaves them out."""

from __future__ import annotations

import posixpath

from reconciler.manifest.interpolate import interpolate
from reconciler.manifest.paths import absolute_path
from reconciler.manifest.reader import read_yaml
from reconciler.manifest.texts import Variables
from reconciler.manifest.tree import Node
from reconciler.model import Problem


def named_contexts(text: str, directory: str, project_dir: str, variables: Variables) -> set[str]:
    """Absolute directories; what is wrong in the text is left for the real reading to say."""
    ignored: list[Problem] = []
    contexts: set[str] = set()
    for document in read_yaml(text, "", ignored):
        native = "apiVersion" in document.mapping
        builds = [document.get("spec", "build")]
        if not native:
            for section in (document.get("services"), document.get("x-holdfast", "images")):
                builds = [*builds, *((item.get("build") for item in section.mapping.values()) if section else ())]
        for build in builds:
            context = _context(build, variables)
            if context and "://" not in context:
                contexts.add(absolute_path(directory if native else project_dir, context, variables))
    return {posixpath.normpath(context) for context in contexts}


def _context(build: Node | None, variables: Variables) -> str | None:
    if build is None:
        return None
    ignored: list[Problem] = []
    expanded = interpolate(build, variables, ignored)
    return expanded.value if isinstance(expanded.value, str) else expanded.text("context")
