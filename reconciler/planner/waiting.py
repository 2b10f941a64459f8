"""Judges whether the condition that one resource sets on another holds, will hold, or cannot hold now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reconciler.model import Need
from reconciler.planner.drafts import Draft

State = Literal[
    "present", "running", "starting", "healthy", "completing", "completed", "exited", "held", "blocked", "outdated"
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standing:
    """How one container (or object) stands that this plan does not make anew."""

    state: State
    reason: str = ""
    id: str = ""
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """`held`: nothing can begin (until `until`, 0.0: until something else changes). `ids` None: no need to wait."""

    held: bool = False
    reason: str = ""
    until: float = 0.0
    ids: tuple[str, ...] | None = None


_FULFILS = {
    "exists": {"present", "running", "starting", "healthy", "completing", "completed", "exited"},
    "started": {"present", "running", "starting", "healthy", "completing", "completed", "exited"},
    "healthy": {"present", "running", "healthy"},
    "completed": {"present", "completed"},
}
_MAY_FULFIL = {
    "exists": set[str](),
    "started": set[str](),
    "healthy": {"starting", "completing"},
    "completed": {"completing", "running", "starting", "healthy"},
}


def judge(need: Need, made: Sequence[Draft], standings: Sequence[Standing], starts: bool = False) -> Judgement:
    """`made` are the drafts that bring the needed resource about, `standings` what exists of it untouched.

    What is there but cannot be brought up to date serves containers that exist already (`starts`), and no new ones.
    """
    condition = need.condition if need.key.kind in ("service", "job") else "exists"
    waiting: list[str] = []
    for standing in standings:
        if standing.state in _FULFILS[condition] or (starts and standing.state == "outdated"):
            continue
        if standing.state in _MAY_FULFIL[condition]:
            waiting.append(standing.id)
        elif need.required:
            why = standing.reason or f"it is {standing.state}"
            return Judgement(True, f"waits for {need.key}: {why}", standing.until)
    fresh = any(draft.verb != "repair" for draft in made) and condition in ("healthy", "completed")
    return Judgement(ids=tuple(waiting)) if fresh or waiting else Judgement()
