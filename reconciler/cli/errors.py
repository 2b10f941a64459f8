"""How a command ends: every failure becomes a message on stderr and one of the documented exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

DONE = 0
FAILED = 1
BAD_INPUT = 2
CHANGES = 3
TIMED_OUT = 4
LOCKED = 5
OWN_FAILURE = 125
"""Commands that give a program's exit code report their own failures with 125, 126 and 127, as docker does."""
INTERRUPTED = 130
BROKEN_PIPE = 141


class CommandFailed(Exception):
    """A failure already put into words by a command, with its exit code."""

    def __init__(self, message: str, exit_code: int = FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint


class ReaderGone(Exception):
    """Nobody reads what we write. A class of its own, because click would turn the BrokenPipeError into exit code 1."""


class ProgramUsageError(click.UsageError):
    """A wrong command line of a command that gives a program's exit code."""

    exit_code = OWN_FAILURE


class ProgramCommand(click.Command):
    """A command whose exit code is the program's own; whatever else goes wrong is 125 to 127."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise ProgramUsageError(error.format_message(), error.ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise ProgramUsageError(error.format_message(), error.ctx) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            message, code, hint = describe(error)
            raise CommandFailed(message, code if code in (126, 127) else OWN_FAILURE, hint) from error


def describe(error: BaseException) -> tuple[str, int, str]:
    """(message, exit code, hint) of a failure. Nothing is imported for it: a raised error's class is loaded already."""
    if isinstance(error, CommandFailed):
        return error.message, error.exit_code, error.hint
    if (model := sys.modules.get("reconciler.model")) and isinstance(error, model.InputError):
        return "\n".join(map(str, error.problems)), BAD_INPUT, ""
    if (lock := sys.modules.get("reconciler.lock")) and isinstance(error, lock.StackLocked):
        return str(error), LOCKED, getattr(error, "hint", "")
    if (errors := sys.modules.get("runtime.errors")) and isinstance(error, errors.EngineError):
        code = error.exit_code if isinstance(error, errors.StartFailed) else FAILED
        return error.message, code, error.hint
    if isinstance(error, PermissionError):
        hint = "" if os.geteuid() == 0 else "containers need root: try sudo"
        return f'cannot open "{error.filename}": {error.strerror}' if error.filename else str(error), FAILED, hint
    if isinstance(error, OSError):
        where = f' "{error.filename}"' if error.filename else ""
        return f"cannot go on: system call failed{where}: {error.strerror or error}", FAILED, ""
    hint = "this is a bug in holdfast: run again with HOLDFAST_TRACEBACK=1 and report what it prints"
    return f"cannot go on: internal error: {type(error).__name__}: {error}", FAILED, hint


def run_command(command: click.Command, arguments: Sequence[str]) -> int:
    """Run a command line to its exit code."""
    try:
        result = command.main(args=list(arguments), prog_name="holdfast", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)
        return INTERRUPTED
    except click.ClickException as error:
        _say_usage(error)
        return error.exit_code
    except (ReaderGone, BrokenPipeError):
        # The reader went away (`holdfast logs | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get("HOLDFAST_TRACEBACK"):
            raise
        message, code, hint = describe(error)
        say_error(message, hint)
        return min(code, FAILED) if code in (125, 126, 127) and not isinstance(error, CommandFailed) else code
    return result if isinstance(result, int) else DONE


def say_error(message: str, hint: str = "") -> None:
    from reconciler.cli.output import paint

    if not message:
        return
    print(paint(message, "red", sys.stderr), file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def _say_usage(error: click.ClickException) -> None:
    ctx = getattr(error, "ctx", None)
    say_error(error.format_message(), f"try: {ctx.command_path} --help" if ctx else "")
