"""Actions while they are still being decided: mutable, and tied to each other by reference instead of by number."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.model import Key
from reconciler.plan import Action, Order, Reason, Verb, Wait

_RANK = {"stop": 0, "build": 1, "bootstrap": 1, "load": 1, "remove": 3}


@dataclass(eq=False, slots=True)
class Draft:
    """`tolerates`: predecessors whose failure does not skip this one. `stopped_by`: what stops its container before."""

    verb: Verb
    key: Key
    index: int = 0
    object_id: str = ""
    object_name: str = ""
    successor: str = ""
    reasons: tuple[Reason, ...] = ()
    after: list[Draft] = field(default_factory=list)
    tolerates: list[Draft] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    order: Order = ""
    order_reason: str = ""
    grace: float | None = None
    delay: float = 0.0
    pruned: bool = False
    was_live: bool = False
    fresh: bool = False
    stopped_by: Draft | None = None


def number(drafts: Sequence[Draft], order: Mapping[Key, int]) -> tuple[Action, ...]:
    """Number from 1, so that every action comes after its predecessors and otherwise in the graph's order."""
    place = {draft: position for position, draft in enumerate(drafts)}
    missing = {draft: {one for one in draft.after if one in place} for draft in drafts}
    followers: dict[Draft, list[Draft]] = {}
    for draft, predecessors in missing.items():
        for one in predecessors:
            followers.setdefault(one, []).append(draft)

    def rank(draft: Draft) -> tuple[int, int, int, int]:
        removal = draft.verb == "remove" and draft.key not in order
        return (len(order) if removal else order.get(draft.key, 0), _RANK.get(draft.verb, 2), draft.index, place[draft])

    ready = [(rank(draft), draft) for draft in drafts if not missing[draft]]
    heapq.heapify(ready)
    ids: dict[Draft, int] = {}
    actions: list[Action] = []
    while ready:
        _, draft = heapq.heappop(ready)
        ids[draft] = len(ids) + 1
        actions.append(_action(draft, ids))
        for follower in followers.get(draft, ()):
            missing[follower].discard(draft)
            if not missing[follower]:
                heapq.heappush(ready, (rank(follower), follower))
    assert len(actions) == len(drafts), "a plan's actions wait for each other"
    return tuple(actions)


def _action(draft: Draft, ids: Mapping[Draft, int]) -> Action:
    return Action(
        ids[draft],
        draft.verb,
        draft.key,
        draft.index,
        draft.object_id,
        draft.object_name,
        draft.successor,
        draft.reasons,
        tuple(sorted({ids[one] for one in draft.after if one in ids})),
        tuple(draft.waits),
        draft.order,
        draft.order_reason,
        draft.grace,
        draft.delay,
        draft.pruned,
        tuple(sorted({ids[one] for one in draft.tolerates if one in ids})),
        draft.was_live,
        draft.fresh,
    )
