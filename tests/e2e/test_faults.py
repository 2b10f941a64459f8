"""Bad input and faults at the command line: a clear message, the right exit code, the previous state still works."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.holdfast import Holdfast, holdfast_root, wait_until

pytestmark = pytest.mark.root

GOOD = """
name: stack
services:
  web:
    image: busybox
    command: ["sleep", "100000"]
    stop_grace_period: 0s
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holdfast]:
    """One root whose stack runs before and after each fault."""
    with holdfast_root(tmp_path_factory.mktemp("faults")) as holdfast:
        holdfast.write(GOOD)
        holdfast.apply()
        yield holdfast


@pytest.fixture
def pid(running: Holdfast) -> Iterator[int]:
    """The pid of the running service, which must be the same after the test."""
    running.write(GOOD)
    before = [one["pid"] for one in running.containers()]
    yield before[0]
    assert [one["pid"] for one in running.containers()] == before


INPUTS = [
    ("services:\n  web:\n    image: busybox\n    comand: [x]\n", ":4:5: ", "command"),
    ("services:\n  web:\n    image: busybox\n    init: 5x\n", ":4:", "init"),
    (
        "services:\n  a: {image: busybox, depends_on: [b]}\n  b: {image: busybox, depends_on: [a]}\n",
        "", "service/a -> service/b -> service/a",
    ),
    ("services:\n  a: {image: busybox, depends_on: [bb]}\n  b: {image: busybox}\n", ":2:", 'did you mean "b"'),
    ("services:\n  web: {image: 'nowhere:1'}\n", ":2:", "nowhere:1"),
    ("services:\n  web: {image: busybox, volumes: ['/not/there:/x']}\n", ":2:", "/not/there"),
    ("services:\n  web: {image: busybox, hostname: '${UNSET_HERE}'}\n", ":2:", "UNSET_HERE"),
    ("services:\n  web: {image: busybox}\n  web: {image: busybox}\n", ":3:", "web"),
    ("services: {web: {image: busybox, ports: ['8000:80']}, b: {image: busybox, ports: ['8000:80']}}\n", ":1:", "8000"),
    ("services: {web: {image: busybox, isolation: hyperv}}\n", ":1:", "isolation"),
    ("", "", "empty"),
    ("services:\n\t- x\n", ":2:", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "word"), INPUTS)
def test_bad_input_is_refused_with_its_place_and_nothing_is_touched(
    running: Holdfast, pid: int, text: str, where: str, word: str
) -> None:
    running.write("name: stack\n" + text.replace("services", "services", 1) if text else "")
    for command in (("validate",), ("plan",), ("apply", "--yes")):
        done = running.run(*command, "-f", "compose.yaml", code=2)
        line_shift = where if not where.startswith(":") else f":{int(where.split(':')[1]) + 1}:"
        assert line_shift.rstrip() in done.stderr and word.lower() in done.stderr.lower(), done.stderr


def test_a_yaml_bomb_is_refused_quickly(running: Holdfast, pid: int) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    running.write("\n".join(lines) + "\nservices: {web: {image: busybox, command: *a11}}\n")
    began = time.monotonic()
    running.run("plan", "-f", "compose.yaml", code=2)
    assert time.monotonic() - began < 5


def test_an_unreadable_source_prunes_nothing(running: Holdfast, pid: int) -> None:
    done = running.run("apply", "--yes", "-f", "missing.yaml", code=2)
    assert "missing.yaml" in done.stderr


def test_a_busy_port_is_named_before_anything_is_touched(running: Holdfast, pid: int) -> None:
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", 0))
        busy.listen()
        port = busy.getsockname()[1]
        running.write(GOOD + f"  other: {{image: busybox, command: [sleep, '1000'], ports: ['{port}:80']}}\n")
        done = running.apply(code=None)
        assert done.returncode in (1, 2) and str(port) in done.stderr
    assert len(running.containers(all=True)) == 1


def test_a_colliding_subnet_is_named(running: Holdfast, pid: int) -> None:
    running.write(
        GOOD + "  other: {image: busybox, command: [sleep, '1000'], networks: [lan]}\n"
        "networks: {lan: {ipam: {config: [{subnet: 127.0.0.0/8}]}}}\n"
    )
    done = running.apply(code=None)
    assert done.returncode in (1, 2) and "127.0.0.0/8" in done.stderr


def test_a_program_that_does_not_exist_fails_its_service_only(running: Holdfast, pid: int) -> None:
    running.write(
        GOOD + "  other: {image: busybox, command: [/bin/nope]}\n  third: {image: busybox, command: [sleep, '999']}\n"
    )
    done = running.apply(code=1)
    assert "/bin/nope" in done.stderr
    assert {one["name"] for one in running.containers()} == {"stack/web-1", "stack/third-1"}
    running.write(GOOD)
    running.apply()


def test_a_container_that_exits_at_once_fails_the_apply(running: Holdfast, pid: int) -> None:
    running.write(GOOD + "  other: {image: busybox, command: [sh, -c, 'echo because; exit 3']}\n")
    done = running.apply(code=1)
    assert "other" in done.stderr and "3" in done.stderr
    running.write(GOOD)
    running.apply()


def test_a_second_apply_waits_or_names_the_holder(running: Holdfast, pid: int) -> None:
    running.write(
        GOOD
        + "  slow: {image: busybox, command: [sleep, '999'], healthcheck: {test: ['CMD', 'false'], retries: 500}}\n"
    )
    first = subprocess.Popen(
        running.argv("apply", "--yes", "--timeout", "30s"), cwd=running.directory,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: len(running.containers()) == 2, "the first apply is under way")
        done = running.run("apply", "--yes", "--timeout", "1s", code=5)
        assert str(first.pid) in done.stderr
        assert json.loads(running.run("container", "ls", "--json").stdout), "reads never lock"
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    running.write(GOOD)
    running.apply()


def test_a_second_root_wanting_the_same_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = GOOD + f"    ports: ['127.0.0.1:{port}:80']\n"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with holdfast_root(tmp_path / "a") as one, holdfast_root(tmp_path / "b") as two:
        one.write(text)
        one.apply()
        two.write(text)
        done = two.apply(code=None)
        assert done.returncode in (1, 2) and str(port) in done.stderr
        assert len(one.containers()) == 1 and two.containers() == []


def test_a_full_disk_is_said_and_the_previous_state_works(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(root)], check=True)
    try:
        with holdfast_root(tmp_path) as holdfast:
            holdfast.write(GOOD)
            holdfast.apply()
            before = [one["pid"] for one in holdfast.containers()]
            filler = root / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 4096)
            holdfast.write(GOOD + "  other: {image: busybox, command: [sleep, '1000']}\n")
            done = holdfast.apply(code=1)
            assert "space" in done.stderr
            assert [one["pid"] for one in holdfast.containers()] == before
            filler.unlink()
            holdfast.apply()
            assert len(holdfast.containers()) == 2
    finally:
        subprocess.run(["umount", str(root)], check=False)


def test_a_corrupt_blob_is_named(running: Holdfast, pid: int) -> None:
    record = json.loads(running.run("image", "inspect", "busybox", "--json").stdout)
    digest = (record[0] if isinstance(record, list) else record)["id"].removeprefix("sha256:")
    blob = Path(running.layout.blobs, digest)
    whole = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(whole[:-1] + b"!")
    try:
        done = running.run("container", "run", "--rm", "busybox", "true", code=125)
        assert digest[:12] in done.stderr
    finally:
        blob.write_bytes(whole)
    running.run("container", "run", "--rm", "busybox", "true")


def test_without_privileges_the_command_says_so(running: Holdfast, pid: int) -> None:
    # In a user namespace without a mapping the process is nobody and has no capability on the host.
    done = subprocess.run(
        ["unshare", "--user", *running.argv("apply", "--yes")], cwd=running.directory, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2) and "root" in done.stderr and "Traceback" not in done.stderr, done.stderr
