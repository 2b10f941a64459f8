"""Interleaved rounds, medians and ratios: on a noisy machine only figures of one run side by side mean anything."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleave(variants: Mapping[str, Callable[[], None]], rounds: int, pause: float = 0.1) -> dict[str, list[float]]:
    """Seconds of each variant, one call of each a round after an uncounted one; `pause` seconds before each call."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, call in variants.items():
            time.sleep(pause)
            gc.collect()
            began = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def summary(times: list[float]) -> dict[str, float]:
    return {
        "min_ms": round(min(times) * 1000, 2),
        "median_ms": round(statistics.median(times) * 1000, 2),
        "max_ms": round(max(times) * 1000, 2),
        "rounds": len(times),
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Their median over ours: how many times faster we are."""
    return round(statistics.median(theirs) / statistics.median(ours), 2)


def proportional_memory(pid: int) -> int:
    """PSS of a process in bytes (Documentation/filesystems/proc: smaps_rollup)."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def report(name: str, figures: dict[str, Any]) -> None:
    json.dump({"bench": name, "machine": f"{platform.release()} {platform.machine()}", **figures}, sys.stdout, indent=2)
    print()
