"""Who a program is and where it stands: names of the host, user, groups, working directory, its file."""

from __future__ import annotations

import os
import stat

from runtime import syscalls

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def set_names(hostname: str, domainname: str) -> None:
    if hostname:
        syscalls.sethostname(hostname.encode())
    if domainname:
        syscalls.setdomainname(domainname.encode())


def become(uid: int, gid: int, groups: list[int], *, keep_capabilities: bool) -> None:
    """Groups first: a plain user may not set them. Capabilities of a plain user are kept only for ambient ones."""
    os.setgroups(sorted({*groups}))
    os.setresgid(gid, gid, gid)
    if uid and keep_capabilities:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)


def enter_directory(path: str) -> None:
    """Made when absent, as docker does. A path through an open descriptor could lead out of the root (CVE-2024-21626).

    All descriptors of the host are closed before this; the check of getcwd is the second lock on that door.
    """
    try:
        os.chdir(path)
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(path)
    try:
        inside = os.getcwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise PermissionError(1, "the working directory lies outside the container", path)


class ProgramError(Exception):
    """The program cannot be executed: `exit_code` 127 when there is none, 126 when it may not run."""

    def __init__(self, program: str, cause: str, exit_code: int) -> None:
        super().__init__(f'exec "{program}": {cause}')
        self.exit_code = exit_code


def execute(argv: list[str], environment: dict[str, str]) -> None:
    """Replace this process, or raise ProgramError. Searches the container's own PATH."""
    program = argv[0]
    if "/" in program:
        candidates = [program]
    else:
        search = environment.get("PATH") or DEFAULT_PATH
        candidates = [f"{directory or '.'}/{program}" for directory in search.split(":")]
    denied = False
    for candidate in candidates:
        try:
            os.execve(candidate, argv, environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError) as error:
            if "/" in program:
                raise ProgramError(program, _absence(candidate, error), 127) from None
        except PermissionError:
            if "/" in program:
                cause = "is a directory" if os.path.isdir(candidate) else "permission denied"
                raise ProgramError(program, cause, 126) from None
            denied = denied or not os.path.isdir(candidate)
        except OSError as error:
            raise ProgramError(candidate, (error.strerror or str(error)).lower(), 126) from None
        except ValueError as error:
            raise ProgramError(program, str(error), 126) from None
    if denied:
        raise ProgramError(program, "permission denied", 126)
    raise ProgramError(program, "executable file not found in $PATH", 127)


def _absence(path: str, error: OSError) -> str:
    """A file that is there but "not found" lacks its interpreter or dynamic loader: say so, it costs people hours."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return (error.strerror or "no such file or directory").lower()
    if stat.S_ISREG(mode):
        return "no such file or directory (its interpreter or dynamic loader is missing)"
    return (error.strerror or "no such file or directory").lower()
