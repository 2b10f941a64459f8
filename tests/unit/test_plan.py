"""Plans as people and programs read them."""

from __future__ import annotations

import pytest

from reconciler.differences import find_differences, show
from reconciler.model import Key
from reconciler.plan import Action, Blocked, Pending, Plan, Reason, Wait, from_json, render, to_json
from tests.support.desired import file, make_spec, mount, port

WEB = Key("service", "web")


def test_lines_are_aligned_and_say_why() -> None:
    plan = Plan(
        "shop",
        (
            Action(1, "create", Key("network", "front"), reasons=(Reason(text="it does not exist"),)),
            Action(
                2, "replace", WEB, 1, reasons=(Reason("image", "nginx:1.26", "nginx:1.27"), Reason("tty", "a", "b")),
                order="start-first", order_reason="it holds nothing that cannot be shared", after=(1,),
            ),
        ),
        blocked=(Blocked(WEB, "no image", "build it"), Blocked(None, "too much")),
        pending=(Pending(WEB, 2, "exited with code 1", 103.5),),
        warnings=("careful",),
    )  # fmt: skip
    assert render(plan, now=100.0).split("\n") == [
        "stack shop: 1 create, 1 replace",
        "  #1 network/front  create: it does not exist",
        "  #2 service/web-1  replace: image nginx:1.26 -> 1.27; tty a -> b",
        "                    start-first: it holds nothing that cannot be shared",
        "  waiting service/web-2: exited with code 1; tried again in 3.5 s",
        "  blocked service/web: no image (build it)",
        "  blocked: too much",
        "  warning: careful",
    ]
    assert "\x1b[" in render(plan, color=True) and "\x1b[" not in render(plan)


def test_an_empty_plan_is_one_line() -> None:
    assert render(Plan("shop")) == "stack shop: nothing to change"
    assert Plan("shop").empty and Plan("shop").converged
    assert not Plan("shop", blocked=(Blocked(None, "no"),)).converged


def test_many_reasons_are_cut_short() -> None:
    action = Action(1, "replace", WEB, 1, reasons=tuple(Reason(f"f{n}", "a", "b") for n in range(9)))
    assert str(action).endswith("f3 a -> b; and 5 more")


def test_json_and_back_is_the_same_plan() -> None:
    action = Action(
        1, "start", WEB, 1, "id", "shop/web-1", "", (Reason("a", "b", "c"),), (), (Wait(WEB, "healthy", True, ("x",)),)
    )
    plan = Plan("shop", (action,), (Blocked(None, "r"),), (Pending(WEB, 1, "r", 2.0),), ("w",), 3.0, "basis")
    assert from_json(to_json(plan)) == plan


@pytest.mark.parametrize("value", [None, [], {}, {"format": 99}, {"format": 1, "stack": "x"}])
def test_what_is_no_plan_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="plan"):
        from_json(value)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("nginx:1.26", "nginx:1.27", "image nginx:1.26 -> 1.27"),
        ("nginx:1.26", "httpd:2", "image nginx:1.26 -> httpd:2"),
        ("nginx", "nginx:1.27", "image nginx -> nginx:1.27"),
        ("host:5000/a", "host:5000/b", "image host:5000/a -> host:5000/b"),
    ],
)
def test_an_images_repository_is_said_once(old: str, new: str, text: str) -> None:
    assert str(Reason("image", old, new)) == text


# ---- differences


def test_every_differing_field_is_named_with_both_values() -> None:
    old = make_spec(env={"A": "1", "B": "2"}, ports=[port(80)], read_only=False, command=["sleep", "1"])
    new = make_spec(env={"A": "1", "B": "3", "C": "4"}, ports=[port(81, 8080)], read_only=True, command=None)
    assert [str(reason) for reason in find_differences(old, new)] == [
        "command [sleep, 1] -> (none)",
        "env.B 2 -> 3",
        "env.C (none) -> 4",
        "ports 80:80 -> 81:8080",
        "read_only false -> true",
    ]


def test_parts_of_lists_are_named_by_what_identifies_them() -> None:
    old = make_spec(mounts=[mount("data"), mount("old", "/old")], files=[file("/a", "sha256:" + "a" * 64, True)])
    new = make_spec(mounts=[mount("data", read_only=True)], files=[file("/a", "sha256:" + "b" * 64, True)])
    assert [str(reason) for reason in find_differences(old, new)] == [
        "secret /a.digest sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb",
        "mounts /data.read_only false -> true",
        "mounts /old shop_old -> (none)",
    ]


@pytest.mark.parametrize("name", ["DB_PASSWORD", "API_TOKEN", "AWS_SECRET", "STRIPE_API_KEY", "PRIVATE_PEM"])
def test_values_of_telling_names_are_hidden(name: str) -> None:
    reasons = find_differences(make_spec(env={name: "one"}), make_spec(env={name: "two"}))
    assert [str(reason) for reason in reasons] == [f"env.{name} (hidden) -> (hidden)"]


def test_long_values_are_cut_and_newlines_stay_on_one_line() -> None:
    assert len(show("x" * 500)) <= 72
    assert show("a\nb") == "a\\nb"
    assert show("1:" + "c" * 64) == "1:cccccccccccc"
    assert find_differences(make_spec(), make_spec()) == ()
