"""A tiny process 1 for containers that ask for one: passes signals on, reaps orphans, ends as the program ends."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.supervise.init import Launch


def continue_as_child(launch: Launch) -> None:
    """Fork; the child returns, in a session of its own, and becomes the program. The parent stays as process 1."""
    signals: set[int] = set(signal.valid_signals())
    # Blocked signals are kept even for process 1, which ignores what it does not handle.
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    # Status and report belong to the program: their end must mean its exec.
    os.close(launch.status)
    os.close(launch.report)
    _serve(child, signals)


def _serve(child: int, signals: set[int]) -> None:
    while True:
        number = signal.sigwaitinfo(signals).si_signo
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except OSError:
                continue
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
