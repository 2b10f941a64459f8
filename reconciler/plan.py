"""A plan as a value: what would be done to one stack, in which order and why; printed, compared, thrown away."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reconciler.model import Condition, Json, Key

Verb = Literal[
    "build", "bootstrap", "load", "create", "replace", "start", "stop", "restart", "remove", "repair", "update"
]  # fmt: skip
Order = Literal["", "start-first", "stop-first"]
FORMAT = 1
SHOWN_REASONS = 4

_COLOURS = {
    "build": 36, "bootstrap": 36, "load": 36, "create": 32, "start": 32, "replace": 33, "restart": 33, "repair": 33,
    "update": 33, "stop": 31, "remove": 31,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    """Either a field with both values, or a sentence in `text`. Values are already shortened and free of secrets."""

    field: str = ""
    old: str = ""
    new: str = ""
    text: str = ""

    def __str__(self) -> str:
        if self.text:
            return self.text
        new = self.new
        if self.field == "image":
            # nginx:1.26 -> 1.27: the part that stays is said once
            repository, colon, _ = self.old.rpartition(":")
            if colon and "/" not in new.rpartition(":")[2] and new.rpartition(":")[0] == repository:
                new = new.rpartition(":")[2]
        return f"{self.field} {self.old} -> {new}"


@dataclass(frozen=True, slots=True)
class Wait:
    """A condition that must hold before an action may begin, checked by the executor when its turn comes.

    `ids` are the containers that exist already and take part; those that this plan makes are added as they appear.
    """

    key: Key
    condition: Condition
    required: bool = True
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """One step. `index` is the replica (0 for what is no container), `object_id` the existing object it acts on.

    `successor`: a container that an interrupted replacement has already created. `after`: ids of the actions that must
    have been done before; a failure of one of them skips this one, except of those in `tolerates`. `delay` seconds pass
    between its predecessors and itself. `pruned` counts towards the deletion budget. `was_live`: its container ran, and
    is to run again when its replacement fails. `fresh`: an image is made without what earlier builds left in the cache.
    """

    id: int
    verb: Verb
    key: Key
    index: int = 0
    object_id: str = ""
    object_name: str = ""
    successor: str = ""
    reasons: tuple[Reason, ...] = ()
    after: tuple[int, ...] = ()
    waits: tuple[Wait, ...] = ()
    order: Order = ""
    order_reason: str = ""
    grace: float | None = None
    delay: float = 0.0
    pruned: bool = False
    tolerates: tuple[int, ...] = ()
    was_live: bool = False
    fresh: bool = False

    @property
    def target(self) -> str:
        """`service/web-1` for a container, else the resource's own name."""
        return f"{self.key}-{self.index}" if self.index else str(self.key)

    def __str__(self) -> str:
        return f"#{self.id} {self.target} {self.verb}{_because(self)}"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A resource (None: the stack) that cannot be brought where it should be until somebody changes something."""

    key: Key | None
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Pending:
    """A resource whose next attempt is due at `until`."""

    key: Key
    index: int
    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class Hold:
    """What the loop remembers of a failed action: leave this resource alone until then.

    `verb` of the action that failed: after a failed create or replace what runs already is looked after as ever.
    """

    reason: str
    until: float
    verb: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """`not_before`: when to look again although nothing happened (wall clock), None when there is no such time.

    `basis` digests what the plan was made from; a stored plan whose basis no longer holds must not be run.
    """

    stack: str
    actions: tuple[Action, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    pending: tuple[Pending, ...] = ()
    warnings: tuple[str, ...] = ()
    not_before: float | None = None
    basis: str = ""

    @property
    def empty(self) -> bool:
        """Nothing to change: exit code 0 of `holdfast plan`."""
        return not self.actions

    @property
    def converged(self) -> bool:
        """Nothing to change, and nothing that should be otherwise."""
        return not (self.actions or self.blocked or self.pending)


def to_json(plan: Plan) -> Json:
    value = asdict(plan)
    value["format"] = FORMAT
    for action, item in zip(plan.actions, value["actions"], strict=True):
        item["key"] = str(action.key)
        for wait, one in zip(action.waits, item["waits"], strict=True):
            one["key"] = str(wait.key)
    for entry, item in zip(plan.blocked, value["blocked"], strict=True):
        item["key"] = str(entry.key) if entry.key else None
    for held, item in zip(plan.pending, value["pending"], strict=True):
        item["key"] = str(held.key)
    return value


def from_json(value: Json) -> Plan:
    """Raises ValueError for what is no plan of this version."""
    try:
        if value["format"] != FORMAT:
            raise ValueError(f"plan format {value['format']} is not {FORMAT}")
        return Plan(
            value["stack"],
            tuple(_action(item) for item in value["actions"]),
            tuple(Blocked(**{**item, "key": _key(item["key"]) if item["key"] else None}) for item in value["blocked"]),
            tuple(Pending(**{**item, "key": _key(item["key"])}) for item in value["pending"]),
            tuple(value["warnings"]),
            value["not_before"],
            value["basis"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {error}") from error


def _action(item: dict[str, Any]) -> Action:
    waits = tuple(Wait(**{**one, "key": _key(one["key"]), "ids": tuple(one["ids"])}) for one in item["waits"])
    reasons = tuple(Reason(**one) for one in item["reasons"])
    numbers = {"after": tuple(item["after"]), "tolerates": tuple(item["tolerates"])}
    return Action(**{**item, **numbers, "key": _key(item["key"]), "waits": waits, "reasons": reasons})


def _key(text: str) -> Key:
    kind, _, name = text.partition("/")
    return Key(kind, name)  # type: ignore[arg-type]


def render(plan: Plan, color: bool = False, now: float | None = None) -> str:
    """Lines for a person, aligned; `now` lets pending restarts be told in seconds."""
    lines = [summary(plan)]
    numbers = max((len(str(action.id)) for action in plan.actions), default=1)
    width = max((len(action.target) for action in plan.actions), default=0)
    for action in plan.actions:
        number = f"#{action.id}".rjust(numbers + 1)
        verb = _paint(action.verb, _COLOURS[action.verb], color)
        lines.append(f"  {number} {action.target.ljust(width)}  {verb}{_because(action)}")
        if action.order and action.order_reason:
            note = f"{action.order}: {action.order_reason}"
            lines.append(f"  {' ' * (numbers + 1)} {' ' * width}  {_paint(note, 2, color)}")
    for held in plan.pending:
        name = f"{held.key}-{held.index}" if held.index else str(held.key)
        when = f" in {max(0.0, held.until - now):.1f} s" if now is not None else " later"
        lines.append(f"  {_paint('waiting', 33, color)} {name}: {held.reason}; tried again{when}")
    for entry in plan.blocked:
        hint = f" ({entry.hint})" if entry.hint else ""
        name = f" {entry.key}" if entry.key else ""
        lines.append(f"  {_paint('blocked', 31, color)}{name}: {entry.reason}{hint}")
    lines += [f"  {_paint('warning', 33, color)}: {text}" for text in plan.warnings]
    return "\n".join(lines)


def summary(plan: Plan) -> str:
    """`stack shop: 3 create, 1 replace`"""
    counts = Counter(action.verb for action in plan.actions)
    text = ", ".join(f"{count} {verb}" for verb, count in counts.items())
    if not text:
        text = "nothing to change" if plan.converged else "nothing to do now"
    return f"stack {plan.stack}: {text}"


def _because(action: Action) -> str:
    shown = [str(reason) for reason in action.reasons[:SHOWN_REASONS]]
    if len(action.reasons) > SHOWN_REASONS:
        shown.append(f"and {len(action.reasons) - SHOWN_REASONS} more")
    return f": {'; '.join(shown)}" if shown else ""


def _paint(text: str, colour: int, color: bool) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if color else text
