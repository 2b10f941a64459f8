"""Observe, plan, execute, and look again until nothing is left to do: once for an apply, for ever in the agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reconciler.generations import Generations
    from reconciler.health import Prober
    from reconciler.model import Desired
    from reconciler.plan import Plan
    from runtime.api import Engine


@dataclass(frozen=True, slots=True)
class ConvergeOptions:
    """`timeout` bounds the whole converge; `lock_wait` how long another holder of the stack is waited for.

    `expected` is the plan a person saw (`apply PLANFILE`): when the plan made now differs, nothing is touched.
    """

    prune: bool = True
    wait: bool = True
    timeout: float = 600.0
    lock_wait: float = 0.0
    deletion_budget: int | None = None
    revision: str = ""
    source: str = ""
    by_hand: bool = True
    expected: Plan | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a converge tells while it runs. `kind` "plan" carries the first plan's JSON in `data`."""

    kind: Literal["plan", "action", "waiting", "warning"]
    stack: str
    key: str = ""
    verb: str = ""
    state: str = ""
    """For an action: "started", "done", "failed", "skipped" or "progress" (then `message` is a line of its work)."""
    message: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a converge ended. `plan` is the first plan made; empty when nothing had to change.

    `exit_code` is what the command line ends with: 0, 1 (failures) or 4 (time was up).
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
    """Actions carried out."""

    @property
    def changed(self) -> bool:
        return self.done > 0

    @property
    def exit_code(self) -> int:
        if self.failures:
            return 1
        return 4 if self.timed_out else 0


def converge(
    engine: Engine,
    generations: Generations,
    desired: Desired,
    options: ConvergeOptions | None = None,
    *,
    on_event: Callable[[Progress], None] = lambda progress: None,
    prober: Prober | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Make `desired` the stack's wanted generation and bring the stack to it.

    Takes the stack's lock (StackLocked), raises InputError before anything is touched when the plan is refused, and
    EngineError when the host cannot be observed or the generation cannot be recorded. Failed actions do not raise.
    """
    raise NotImplementedError


def destroy(
    engine: Engine,
    generations: Generations,
    stack: str,
    *,
    volumes: bool = False,
    timeout: float = 600.0,
    lock_wait: float = 0.0,
    on_event: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Remove all the stack's objects (its volumes only when told) and record that it is to stay down."""
    raise NotImplementedError
