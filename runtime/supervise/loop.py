"""The supervisor's event loop: one epoll, calls by descriptor, timers."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.calls: dict[int, Callable[[int], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self._forgotten: set[int] = set()

    def watch(self, fd: int, call: Callable[[int], None]) -> None:
        """Call with the event's bits whenever `fd` is readable or at its end."""
        self.calls[fd] = call
        self.epoll.register(fd, select.EPOLLIN)

    def watch_end_only(self, fd: int) -> None:
        """From now on only EPOLLHUP, which no mask keeps away: for pidfds of zombies that are not ours to reap."""
        self.epoll.modify(fd, 0)

    def forget(self, fd: int) -> None:
        """Before `fd` is closed. Unknown descriptors are fine."""
        if self.calls.pop(fd, None) is not None:
            self.epoll.unregister(fd)
            self._forgotten.add(fd)

    def is_watched(self, fd: int) -> bool:
        return fd in self.calls

    def after(self, delay: float, call: Callable[[], None]) -> None:
        self.timers.append((time.monotonic() + delay, call))

    def is_quiet(self) -> bool:
        """Nothing waits to be handled right now."""
        return not self.epoll.poll(0)

    def step(self, deadline: float | None) -> None:
        """Wait for events, a timer or the deadline (monotonic), and handle what there is."""
        moments = [moment for moment, _ in self.timers]
        if deadline is not None:
            moments.append(deadline)
        timeout = max(0.0, min(moments) - time.monotonic()) + 0.0005 if moments else -1
        events = self.epoll.poll(timeout)
        # A call may close a descriptor and open another of the same number, whose turn comes with the next poll.
        self._forgotten.clear()
        for fd, event in events:
            call = self.calls.get(fd)
            if call is not None and fd not in self._forgotten:
                call(event)
        self._run_timers()

    def _run_timers(self) -> None:
        if not self.timers:
            return
        now = time.monotonic()
        due = [call for moment, call in self.timers if moment <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for call in due:
            call()

    def close(self) -> None:
        self.epoll.close()
