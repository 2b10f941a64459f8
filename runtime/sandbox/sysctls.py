"""Kernel parameters of a container: only those that belong to one of its own namespaces."""

from __future__ import annotations

IPC = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def refusal(name: str, *, host_network: bool) -> str:
    """Why `name` may not be set, "" when it may: anything else would change the host."""
    dotted = name.replace("/", ".")
    if ".." in dotted or dotted.startswith("."):
        return f'sysctl "{name}": not a parameter\'s name'
    if dotted in IPC or dotted.startswith("fs.mqueue."):
        return ""
    if dotted.startswith("net."):
        return f'sysctl "{name}": the container shares the host\'s network' if host_network else ""
    if dotted in ("kernel.domainname", "kernel.hostname"):
        return f'sysctl "{name}": set hostname or domainname instead'
    return f'sysctl "{name}": not separate for each container'


def apply(values: dict[str, str], *, host_network: bool) -> None:
    """Write through the present /proc/sys, after the namespaces exist and before it is made read-only."""
    for name, value in values.items():
        problem = refusal(name, host_network=host_network)
        if problem:
            raise ValueError(problem)
        path = name if "/" in name else name.replace(".", "/")
        try:
            with open(f"/proc/sys/{path}", "w") as file:
                file.write(str(value))
        except OSError as error:
            raise ValueError(f'sysctl "{name}"={value}: {(error.strerror or "refused").lower()}') from None
