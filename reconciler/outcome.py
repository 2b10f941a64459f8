"""What a converge is told, what it tells while it runs, and how it ended; as values and as JSON for the socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reconciler.plan import Plan
from reconciler.plan import from_json as plan_from_json
from reconciler.plan import to_json as plan_to_json

if TYPE_CHECKING:
    from reconciler.executor import Event
    from reconciler.generations import Generations


@dataclass(frozen=True, slots=True)
class ConvergeOptions:
    """`timeout` bounds the whole converge; `lock_wait` how long another holder of the stack is waited for.

    `expected` is the plan a person saw (`apply PLANFILE`): when what it was made from no longer holds, nothing is
    touched. `allow_deletions` lifts the deletion budget; `refresh` makes images anew that come from packages.
    """

    prune: bool = True
    wait: bool = True
    timeout: float = 600.0
    lock_wait: float = 0.0
    allow_deletions: bool = False
    refresh: bool = False
    revision: str = ""
    source: str = ""
    by_hand: bool = True
    expected: Plan | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a converge tells while it runs. `kind` "plan" carries the first plan's JSON in `data`.

    `state` of an action: started, progress, waiting, done, failed, skipped or deferred.
    """

    kind: Literal["plan", "action", "waiting", "warning"]
    stack: str
    key: str = ""
    verb: str = ""
    state: str = ""
    message: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a converge ended. `plan` is the first plan made; empty when nothing had to change.

    `exit_code` is what the command line ends with: 0, 1 (failures) or 4 (time was up). `done` counts actions.
    """

    stack: str
    generation: int
    plan: Plan
    converged: bool
    timed_out: bool = False
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    done: int = 0

    @property
    def changed(self) -> bool:
        return self.done > 0

    @property
    def exit_code(self) -> int:
        if self.failures:
            return 1
        return 4 if self.timed_out else 0


Tell = Callable[[Progress], None]
Stop = Callable[[], bool]


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    value = {name: getattr(outcome, name) for name in _PLAIN}
    return {**value, "plan": plan_to_json(outcome.plan)}


def outcome_from_json(value: Mapping[str, Any]) -> Outcome:
    """The Outcome that an agent sent; raises KeyError or ValueError for what is none."""
    plain: dict[str, Any] = {}
    for name in _PLAIN:
        plain[name] = tuple(value[name]) if isinstance(value[name], list) else value[name]
    return Outcome(plan=plan_from_json(value["plan"]), **plain)


_PLAIN = ("stack", "generation", "converged", "timed_out", "failures", "warnings", "waiting", "done")


def teller(on_event: Tell, generations: Generations, stack: str, number: int) -> Callable[[Event], None]:
    """Passes an executor's events on, and records those that history is made of."""

    def tell(event: Event) -> None:
        action = event.action
        kind: Literal["warning", "action"] = "warning" if event.kind == "warning" else "action"
        on_event(Progress(kind, stack, action.target, action.verb, event.kind, event.message))
        if event.kind in ("done", "failed", "warning"):
            because = "; ".join(map(str, action.reasons))
            text = because if event.kind == "done" else event.message
            name = action.verb if event.kind == "done" else event.kind
            generations.record_event(stack, str(action.key), name, text, number)

    return tell
