"""How long a plan takes for 100, 1,000 and 4,000 resources: from nothing, with nothing to do, and with all changed.

`python -m tests.bench.bench_planner [--rounds N]` prints JSON. Owed: 300 ms for 1,000 resources, growth no faster than
n log n.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable

from reconciler.model import Desired, Key, Need
from reconciler.observed import Observed, sort_snapshot
from reconciler.planner import make_destroy_plan, make_plan
from runtime.api import ContainerState, ImageInfo, NetworkInfo, Run, Snapshot, VolumeInfo
from tests.support.converging import apply_once
from tests.support.desired import STACK, make_desired, make_network, make_service, make_volume, mount
from tests.support.fake_engine import FakeEngine

SIZES = (100, 1000, 4000)
NOW = 1_700_000_000.0


def stack_of(size: int, value: str = "1") -> Desired:
    """One network and one volume to every ten services; each service needs its network, some a volume and a service."""
    groups = max(1, size // 12)
    resources = []
    for group in range(groups):
        resources += [make_network(f"n{group}"), make_volume(f"v{group}")]
    services = size - len(resources)
    for number in range(services):
        group = number % groups
        needs = []
        spec = {}
        if number >= groups:
            needs.append(Need(Key("service", f"s{number - groups}"), "started"))
        if number % 10 == 0:
            spec["mounts"] = [mount(f"v{group}")]
            needs.append(Need(Key("volume", f"v{group}")))
        resources.append(
            make_service(f"s{number}", needs=needs, networks=[f"n{group}"], env={"V": value}, **spec)  # type: ignore[arg-type]
        )
    return make_desired(*resources)


def observed_after(desired: Desired) -> Observed:
    """What a converged stack looks like, without the cost of converging it."""
    from reconciler.requests import container_spec, network_spec, volume_spec

    containers, networks, volumes = [], [], []
    image = ImageInfo("sha256:" + "0" * 64, ("busybox",), {}, None, NOW, 1, {})
    for key, one in desired.resources.items():
        if key.kind == "network":
            wanted = network_spec(STACK, one, 1)
            networks.append(NetworkInfo(wanted.name, wanted.labels, wanted.declared, "b", (), (), False, NOW))
        elif key.kind == "volume":
            made = volume_spec(STACK, one, 1)
            volumes.append(VolumeInfo(made.name, made.labels, made.declared, "/v", NOW))
        else:
            spec = container_spec(desired, one, 1, 1)
            declared = json.loads(json.dumps(spec.declared))
            containers.append(
                ContainerState(
                    f"id-{key.name}", spec.name, spec.image, image.id, spec.labels, declared, "running", NOW, 1,
                    (Run(NOW),), 1, addresses={item.network: ("10.0.0.2",) for item in spec.networks},
                )
            )  # fmt: skip
    return sort_snapshot(Snapshot(tuple(containers), (image,), tuple(networks), tuple(volumes)), STACK)


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    times = []
    # The inputs of all sizes stay in memory; walking them again and again is the collector's cost, not the plan's.
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append((time.process_time() - began) * 1000)
    return statistics.median(times)


def measure(rounds: int) -> dict[str, object]:
    results: dict[str, dict[str, float]] = {}
    make_plan(stack_of(24), observed_after(stack_of(24, "2")), NOW)
    for size in SIZES:
        desired, changed = stack_of(size), stack_of(size, "2")
        nothing = sort_snapshot(Snapshot(images=(ImageInfo("sha256:0", ("busybox",), {}, None, NOW, 1, {}),)), STACK)
        there = observed_after(desired)
        assert make_plan(desired, there, NOW).converged
        assert len(make_plan(desired, nothing, NOW).actions) == size
        results[str(size)] = {
            "create": milliseconds(lambda: make_plan(desired, nothing, NOW), rounds),  # noqa: B023
            "nothing": milliseconds(lambda: make_plan(desired, there, NOW), rounds),  # noqa: B023
            "replace": milliseconds(lambda: make_plan(changed, there, NOW), rounds),  # noqa: B023
            "destroy": milliseconds(lambda: make_destroy_plan(there), rounds),  # noqa: B023
        }
    small, large = results["1000"], results["4000"]
    allowed = 4 * math.log(4000) / math.log(1000)
    growth = {name: large[name] / small[name] for name in small}
    return {
        "milliseconds": results,
        "growth_1000_to_4000": growth,
        "n_log_n_growth": allowed,
        "owed_ms_at_1000": 300,
        "met": all(value <= 300 for value in small.values()),
    }


def walk_fifty(rounds: int) -> float:
    """The executor's own cost: fifty services with a network on an engine that costs nothing."""

    def work() -> None:
        engine = FakeEngine()
        _, result = apply_once(engine, stack_of(54), workers=8)
        assert result.ok

    return milliseconds(work, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    json.dump({**measure(rounds), "execute_54_on_fake_ms": walk_fifty(rounds)}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
