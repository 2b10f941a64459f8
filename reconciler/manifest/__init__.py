"""Reads manifests: YAML with positions, interpolation, `.env`, merging, native documents and Compose files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.manifest.documents import Document
    from reconciler.manifest.texts import Source


def load(source: Source) -> list[Document]:
    """All documents of the source, validated. Raises InputError with every problem found."""
    from reconciler.manifest.documents import load as load_documents

    return load_documents(source)
