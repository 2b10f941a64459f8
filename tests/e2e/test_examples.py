"""Every example converges through the command line, serves its page, heals, and goes again without a trace."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.holdfast import EXAMPLES, Holdfast, bare_root, fetch, free_port, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture
def holdfast(tmp_path: Path) -> Iterator[Holdfast]:
    with bare_root(tmp_path) as holdfast:
        yield holdfast


def test_hello_converges_serves_its_page_and_goes(holdfast: Holdfast) -> None:
    holdfast.environment["HELLO_PORT"] = port = str(free_port())
    source = ("-f", str(EXAMPLES / "hello"))
    planned = holdfast.run("plan", *source, code=3)
    assert re.search(r"service/web-1 +create", planned.stdout)

    applied = holdfast.run("apply", *source, timeout=240)
    assert "stack hello: converged" in applied.stdout
    assert "no agent" in applied.stderr
    assert "holds fast" in fetch(f"http://127.0.0.1:{port}/index.html")

    assert holdfast.run("plan", *source).stdout.strip() == "stack hello: nothing to change"
    assert "nothing to change" in holdfast.run("apply", *source, timeout=240).stdout

    (container,) = holdfast.containers(all=True, stack="hello")
    assert container["resource"] == "web" and container["state"] == "running"
    assert os.path.exists(f"/proc/{container['pid']}")

    holdfast.run("destroy", "hello")
    assert holdfast.containers(all=True) == []
    assert not os.path.exists(f"/proc/{container['pid']}")


def test_a_changed_page_replaces_the_container_and_the_plan_says_why(holdfast: Holdfast, tmp_path: Path) -> None:
    holdfast.environment["HELLO_PORT"] = port = str(free_port())
    copy = shutil.copytree(EXAMPLES / "hello", tmp_path / "hello")
    holdfast.run("apply", "-f", str(copy), timeout=240)
    before = holdfast.containers(all=True)[0]["id"]
    manifest = copy / "hello.yaml"
    manifest.write_text(manifest.read_text().replace("Hello from", "Good evening from"))
    planned = holdfast.run("plan", "-f", str(copy), code=3)
    assert re.search(r"service/web-1 +replace: .*index\.html", planned.stdout), planned.stdout
    holdfast.run("apply", "-f", str(copy), timeout=240)
    assert "Good evening" in fetch(f"http://127.0.0.1:{port}/index.html")
    assert holdfast.containers(all=True)[0]["id"] != before


@pytest.mark.parametrize("example", ["shop", "shop-compose"])
def test_the_shop_converges_heals_and_changes_nothing_when_applied_again(holdfast: Holdfast, example: str) -> None:
    holdfast.environment["SHOP_PORT"] = port = str(free_port())
    page = f"http://127.0.0.1:{port}/"
    source = ("-f", str(EXAMPLES / example))

    holdfast.run("apply", "--agent", "--timeout", "8m", *source, timeout=520)
    first = fetch(page)
    assert "an anchor" in first, "what the migration wrote is shown"
    visits = [int(re.search(r"Visit number (\d+)", fetch(page))[1]) for _ in range(4)]  # type: ignore[index]
    assert visits == sorted(set(visits)), "each visit is counted in redis"
    replicas = {re.search(r"answered by ([^<]*)\.<", fetch(page))[1] for _ in range(20)}  # type: ignore[index]
    assert len(replicas) == 2, "both replicas answer"

    assert "nothing to change" in holdfast.run("apply", *source, timeout=240).stdout
    migrate = holdfast.containers(all=True, stack=example, resource="migrate")
    assert [c["exit_code"] for c in migrate] == [0], "a finished job is not run again"

    victim = holdfast.containers(all=True, stack=example, resource="api")[0]
    os.kill(victim["pid"], signal.SIGKILL)

    def is_healed() -> bool:
        api = holdfast.containers(all=True, stack=example, resource="api")
        return len(api) == 2 and all(c["state"] == "running" and c["pid"] != victim["pid"] for c in api)

    wait_until(is_healed, "the killed replica runs again")
    wait_until(lambda: holdfast.json("status", example)[0]["settled"], "the stack is settled", 30.0)
    assert "an anchor" in fetch(page)
    assert "nothing to change" in holdfast.run("apply", *source, timeout=240).stdout

    volume = f"{example}_redis-data"
    assert volume in holdfast.run("volume", "ls", "-q").stdout.split()
    holdfast.run("destroy", example)
    assert holdfast.containers(all=True) == []
    assert volume in holdfast.run("volume", "ls", "-q").stdout.split(), "data outlives destroy"
    holdfast.run("destroy", example, "--volumes")
    assert holdfast.run("volume", "ls", "-q").stdout == ""
