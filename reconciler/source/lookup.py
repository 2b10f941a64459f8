"""Single questions to the disk and the engine, asked to gather facts and again to check a cached answer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reconciler.desired.facts import FileFact, ImageFact
from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.api import Engine


def look_up_image(engine: Engine, name: str) -> ImageFact:
    try:
        found = engine.find_image(name)
    except EngineError as error:
        return ImageFact(False, False, str(error))
    if found is None:
        return ImageFact(False)
    check: Any = found.config.get("Healthcheck") if isinstance(found.config, Mapping) else None
    return ImageFact(True, bool(check and check.get("Test") and check["Test"][0] != "NONE"))


def kind_of_path(path: str) -> str:
    """ "directory", "file", "other", or "" when there is none."""
    try:
        if os.path.isdir(path):
            return "directory"
        return "file" if os.path.isfile(path) else "other" if os.path.exists(path) else ""
    except ValueError:
        return ""


def digest_archive(path: str) -> FileFact:
    """Digest of an archive, or of an OCI layout directory's `index.json`, which names the digests of all the rest."""
    index = os.path.join(path, "index.json") if os.path.isdir(path) else path
    digest = hashlib.sha256()
    try:
        with open(index, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return FileFact(problem=f'archive: cannot read "{index}": {(error.strerror or str(error)).lower()}')
    return FileFact("sha256:" + digest.hexdigest(), b"", "", ("file", index))
