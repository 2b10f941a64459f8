"""Tells systemd how the agent fares, by the sd_notify protocol: one datagram to the socket named in NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> bool:
    """Send e.g. "READY=1"; False when nobody listens. Never raises: readiness is news, not a condition of work."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    # A leading @ names a socket in the abstract namespace, which the kernel spells with a NUL (sd_notify(3)).
    target = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)
            sender.sendto(message.encode(), target)
    except OSError:
        return False
    return True


def watchdog_interval() -> float:
    """Seconds between WATCHDOG=1 messages that systemd expects of this process; half of its limit, 0.0 for none."""
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        owner = int(os.environ.get("WATCHDOG_PID", "0"))
    except ValueError:
        return 0.0
    if microseconds <= 0 or owner not in (0, os.getpid()):
        return 0.0
    return microseconds / 2_000_000
