"""The dependency graph: its order, its cycles, and its pictures."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from reconciler.graph import order_removal, ordered, render
from reconciler.model import InputError, Key, Mark
from tests.support.desired import make_desired, make_image, make_network, make_service, make_volume, needs


def test_layers_hold_what_may_be_made_at_the_same_time() -> None:
    desired = make_desired(
        make_service("web", networks=["front"], needs=needs(("service", "db", "healthy"))),
        make_service("db", image="app", networks=["front"]),
        make_network("front"),
        make_volume("data"),
        make_image("app"),
    )
    assert ordered(desired) == [
        [Key("image", "app"), Key("network", "front"), Key("volume", "data")],
        [Key("service", "db")],
        [Key("service", "web")],
    ]


def test_a_cycle_is_a_chain_of_names_with_their_places() -> None:
    ring = {"a": "b", "b": "c", "c": "a"}
    services = [
        dataclasses.replace(
            make_service(name, needs=needs(("service", other, "started"))), mark=Mark("app.yaml", place, 3)
        )
        for place, (name, other) in enumerate(ring.items(), 1)
    ]
    with pytest.raises(InputError) as failure:
        ordered(make_desired(*services, make_service("d", needs=needs(("service", "a", "started")))))
    (problem,) = failure.value.problems
    assert "service/a -> service/b -> service/c -> service/a" in problem.message
    assert "service/b at app.yaml:2:3" in problem.message
    assert str(problem.mark) == "app.yaml:1:3"


def test_every_knot_is_reported_and_so_is_a_resource_that_needs_itself() -> None:
    def pair(one: str, other: str) -> list[object]:
        return [
            make_service(one, needs=needs(("service", other, "started"))),
            make_service(other, needs=needs(("service", one, "started"))),
        ]

    itself = make_service("x", needs=needs(("service", "x", "started")))
    with pytest.raises(InputError) as failure:
        ordered(make_desired(*pair("a", "b"), *pair("c", "d"), itself))  # type: ignore[arg-type]
    assert len(failure.value.problems) == 3
    assert "service/x -> service/x" in str(failure.value)


def test_needs_outside_the_stack_are_no_edges() -> None:
    assert ordered(make_desired(make_service("web", needs=needs(("network", "elsewhere"))))) == [
        [Key("service", "web")]
    ]


def test_removal_takes_dependants_first_even_when_old_edges_form_a_circle() -> None:
    a, b, c = (Key("service", name) for name in "abc")
    assert order_removal({a: [b], b: [c], c: []}) == [a, b, c]
    assert sorted(order_removal({a: [b], b: [a], c: [a]})) == [a, b, c]
    assert order_removal({a: [b], b: [a], c: [a]}).index(c) < order_removal({a: [b], b: [a], c: [a]}).index(a)


def test_the_tree_draws_a_shared_subtree_once() -> None:
    desired = make_desired(
        make_service("web", needs=needs(("service", "db", "healthy"))),
        make_service("api", needs=needs(("service", "db", "started"))),
        make_service("db", networks=["front"]),
        make_network("front"),
    )
    assert render(desired).split("\n") == [
        "service/api",
        "└─ service/db (started)",
        "   └─ network/front",
        "service/web",
        "└─ service/db (healthy) …",
    ]


def test_mermaid_and_dot_name_the_conditions() -> None:
    desired = make_desired(make_service("web", needs=needs(("service", "db", "healthy"))), make_service("db"))
    assert render(desired, "mermaid").split("\n") == [
        "graph LR",
        '  n0["service/db"]',
        '  n1["service/web"]',
        "  n1 -->|healthy| n0",
    ]
    assert '"service/web" -> "service/db" [label="healthy"];' in render(desired, "dot")
    with pytest.raises(InputError):
        render(desired, "oil")


def test_an_empty_plan_imports_no_graph_library() -> None:
    """A no-op apply must stay cheap."""
    program = """
import sys
from tests.support.desired import make_desired, make_network, make_service
from tests.support.fake_engine import FakeEngine
from reconciler.observed import observe, sort_snapshot
from reconciler.planner import make_plan
from reconciler.requests import container_spec, network_spec
desired = make_desired(make_service("web", networks=["front"]), make_network("front"))
engine = FakeEngine()
engine.create_network(network_spec("shop", desired.resources[[*desired.resources][1]], 1))
id = engine.create_container(container_spec(desired, [*desired.resources.values()][0], 1, 1))
engine.start_container(id)
plan = make_plan(desired, observe(engine, "shop"), engine.now)
assert plan.converged, plan
heavy = {"networkx", "pyroute2", "rich", "aiohttp", "pydantic", "yaml", "asyncio"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
