"""Runs a build step with nothing but an overlay and a chroot, so that builds can be tested without the supervisor."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

_CHILD = """
import json, os, sys
from runtime import syscalls
lowers, upper, work, merged, argv, cwd, user = json.loads(sys.argv[1])
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work}"
syscalls.mount(b"overlay", merged.encode(), b"overlay", 0, options.encode())
os.chroot(merged)
os.chdir(cwd)
if user:
    os.setuid(int(user))
try:
    os.execve(argv[0], argv, dict(os.environ))
except OSError as error:
    os.write(2, f"{argv[0]}: {error.strerror}".encode())
    os._exit(127)
"""


def run_in_chroot(
    lowers: list[str],
    upper: str,
    work: str,
    argv: list[str],
    env: list[str],
    cwd: str,
    user: str,
    network: str,
    output: Callable[[bytes], None],
    timeout: float | None,
) -> int:
    """The signature of a build's `run_step`; `user` is "" or a number."""
    import json

    merged = f"{os.path.dirname(upper)}/merged"
    os.makedirs(merged, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD, json.dumps([lowers, upper, work, merged, argv, cwd, user])],
        env=dict(item.split("=", 1) for item in env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            for line in process.stdout:
                output(line.rstrip(b"\n"))
            return process.wait(timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
