"""Joins a caller's terminal or pipes to a container's program until it ends."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.files import write_all

CHUNK = 65536


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Every key goes through to the program while this holds; the terminal's own settings come back after."""
    if not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)  # the default would throw away what was typed before
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def copy_window_size(terminal: int, master: int) -> None:
    """The program's window becomes as large as the caller's (TIOCGWINSZ, TIOCSWINSZ)."""
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(terminal, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return


def proxy_terminal(master: int, stdin: int, stdout: int | None, finished: Callable[[], bool]) -> None:
    """Carry bytes both ways until the program has ended and its output is drained.

    `stdout` None leaves the output to another reader: a container's own terminal is read by the supervisor's log.
    """
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    former = signal.signal(signal.SIGWINCH, lambda *_: os.write(wake_write, b"w")) if os.isatty(stdin) else None
    copy_window_size(stdin, master)
    sources = [stdin, wake_read] + ([master] if stdout is not None else [])
    try:
        with raw_terminal(stdin):
            while True:
                ready, _, _ = select.select(sources, [], [], 0.05)
                if wake_read in ready:
                    os.read(wake_read, 64)
                    copy_window_size(stdin, master)
                if stdin in ready:
                    data = os.read(stdin, CHUNK)
                    if data:
                        write_all(master, data)
                    else:
                        # End of input on a terminal is the EOT character, not a closed descriptor.
                        write_all(master, b"\x04")
                        sources.remove(stdin)
                if stdout is not None and master in ready:
                    try:
                        data = os.read(master, CHUNK)
                    except OSError:
                        data = b""  # EIO: the last process closed the other side
                    if not data:
                        return
                    write_all(stdout, data)
                if not ready and finished():
                    return
    finally:
        if former is not None:
            signal.signal(signal.SIGWINCH, former)
        os.close(wake_read)
        os.close(wake_write)
