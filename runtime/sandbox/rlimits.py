"""Resource limits of a process (ulimits) and its score for the OOM killer."""

from __future__ import annotations

import os
import resource

NUMBER = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}


def apply(limits: list[tuple[str, int, int]]) -> None:
    """Each (name, soft, hard); -1 is no limit. ValueError says which one the host does not allow."""
    for name, soft, hard in limits:
        number = NUMBER.get(name.lower().removeprefix("rlimit_"))
        if number is None:
            raise ValueError(f'no ulimit "{name}"')
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError):
            highest = resource.getrlimit(number)[1]
            raise ValueError(
                f"ulimit {name}: {hard} is more than this host allows ({highest}) without CAP_SYS_RESOURCE"
                if soft <= hard or hard == -1
                else f"ulimit {name}: soft limit {soft} is above hard limit {hard}"
            ) from None


def set_oom_score(adjustment: int) -> None:
    """Lowering it needs CAP_SYS_RESOURCE: PermissionError without."""
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(adjustment).encode())
    finally:
        os.close(fd)
