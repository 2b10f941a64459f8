"""The wish in its canonical form: resolved from documents and facts, fingerprinted, written as JSON. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from reconciler.desired.codec import fingerprint, from_json, to_json

if TYPE_CHECKING:
    from reconciler.desired.facts import Facts
    from reconciler.manifest.documents import Document
    from reconciler.model import Desired

__all__ = ["fingerprint", "from_json", "resolve", "to_json"]


def resolve(documents: Sequence[Document], facts: Facts, profiles: Collection[str] = ()) -> Desired:
    """One stack's desired state. Raises InputError with every problem found."""
    from reconciler.desired.resolution import resolve as resolve_documents

    return resolve_documents(documents, facts, profiles)
