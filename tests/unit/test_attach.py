"""The caller's terminal while a program has it."""

import os
import pty
import select

from runtime.container.attach import raw_terminal


def test_what_was_typed_before_the_program_is_there_is_not_lost() -> None:
    master, slave = pty.openpty()
    try:
        os.write(master, b"early\n")
        with raw_terminal(slave):
            assert select.select([slave], [], [], 5.0)[0]
            assert os.read(slave, 100) == b"early\n"
    finally:
        os.close(master)
        os.close(slave)
