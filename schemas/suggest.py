"""`(did you mean …?)` for names that are nearly right."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    import difflib

    candidates = sorted(set(known))
    if len(word) > 100 or not candidates:
        return None
    folded = {candidate.lower(): candidate for candidate in reversed(candidates)}
    found = difflib.get_close_matches(word.lower(), sorted(folded), n=1, cutoff=0.5 if len(word) < 5 else 0.6)
    return folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A parenthesis with a leading space, or "" when nothing is near."""
    found = nearest(word, known)
    return f' (did you mean "{found}"?)' if found else ""
