"""Paths as manifests write them, made absolute without looking at the disk."""

from __future__ import annotations

import posixpath

from reconciler.manifest.texts import Variables


def absolute_path(directory: str, text: str, variables: Variables) -> str:
    """`text` below `directory`; `~` and `~/…` begin at the caller's HOME."""
    if text == "~" or text.startswith("~/"):
        home = variables.from_caller("HOME")
        if home:
            text = posixpath.join(home, text[2:])
    return posixpath.normpath(posixpath.join(directory, text))
