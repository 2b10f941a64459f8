"""The container, image, network and volume verbs on the real engine, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.holdfast import Holdfast, free_port, holdfast_root, wait_until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def holdfast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holdfast]:
    with holdfast_root(tmp_path_factory.mktemp("commands")) as holdfast:
        yield holdfast


@pytest.fixture(autouse=True)
def no_container_stays(holdfast: Holdfast) -> Iterator[None]:
    yield
    if ids := holdfast.run("container", "ls", "-aq").stdout.split():
        holdfast.run("container", "rm", "-f", *ids)


def test_two_streams_and_the_exit_code_come_through(holdfast: Holdfast) -> None:
    done = holdfast.run("container", "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert holdfast.containers(all=True) == []


def test_a_missing_program_is_127_and_one_that_cannot_run_126(holdfast: Holdfast) -> None:
    assert "not found" in holdfast.run("container", "run", "--rm", "busybox", "nothing-here", code=127).stderr
    holdfast.run("container", "run", "--rm", "busybox", "/etc/passwd", code=126)
    holdfast.run("container", "run", "--rm", "no-such-image", "true", code=125)
    assert holdfast.containers(all=True) == []


def test_standard_input_reaches_the_program_only_with_i(holdfast: Holdfast) -> None:
    assert holdfast.run("container", "run", "--rm", "-i", "busybox", "cat", stdin="hello\n").stdout == "hello\n"
    assert holdfast.run("container", "run", "--rm", "busybox", "cat", stdin="hello\n").stdout == ""


def test_a_terminal_is_one(holdfast: Holdfast) -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execve(
            holdfast.argv()[0],
            holdfast.argv("container", "run", "--rm", "-it", "busybox", "sh", "-c", "tty; read x; echo got $x; exit 5"),
            holdfast.environment,
        )
    seen = b""
    end = time.monotonic() + 20
    typed = False
    while time.monotonic() < end:
        if select.select([master], [], [], 0.2)[0]:
            try:
                data = os.read(master, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
        if b"/dev/pts/" in seen and not typed:
            typed = True
            os.write(master, b"word\n")
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 5, seen
    assert b"/dev/pts/" in seen and b"got word" in seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program_and_not_only_us(holdfast: Holdfast, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.05; done"
    process = holdfast.start("container", "run", "--rm", "busybox", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (9, "caught\n"), err


def test_options_reach_the_container(holdfast: Holdfast, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    tmp_path.chmod(0o755)
    script = "id -u; pwd; hostname; echo $A; cat /bound/file; touch /bound/x 2>&- || echo read-only; df -k /t | tail -1"
    done = holdfast.run(
        "container", "run", "--rm", "-u", "1000", "-w", "/tmp", "-h", "box", "-e", "A=1", "-v", f"{tmp_path}:/bound:ro",
        "--tmpfs", "/t:size=1m", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cap-drop", "ALL",
        "busybox", "sh", "-c", script,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:6] == ["1000", "/tmp", "box", "1", "from the host", "read-only"]
    assert lines[6].split()[1] == "1024"


def test_a_detached_container_is_listed_entered_read_stopped_and_started(holdfast: Holdfast) -> None:
    port = free_port()
    script = "echo begun; touch /tmp/kept; while :; do nc -l -p 80 -e echo hello; done"
    id = holdfast.run(
        "container", "run", "-d", "--name", "one", "-p", f"127.0.0.1:{port}:80", "busybox", "sh", "-c", script
    ).stdout.strip()
    (listed,) = holdfast.containers()
    assert listed["id"] == id and listed["name"] == "one" and listed["state"] == "running"
    assert os.path.exists(f"/proc/{listed['pid']}") and listed["ports"][0]["host_port"] == port
    wait_until(lambda: "begun" in holdfast.run("container", "logs", "one").stdout, "the program's first line")
    assert holdfast.run("container", "exec", "one", "ls", "/tmp").stdout == "kept\n"
    holdfast.run("container", "exec", "one", "sh", "-c", "exit 4", code=4)
    holdfast.run("container", "exec", "one", "nothing-here", code=127)
    holdfast.run("container", "pause", id[:12])
    assert holdfast.containers()[0]["state"] == "paused"
    holdfast.run("container", "unpause", "one")
    holdfast.run("container", "stop", "-t", "0", "one")
    assert holdfast.containers() == []
    assert holdfast.containers(all=True)[0]["exit_code"] == 137
    holdfast.run("container", "start", "one")
    assert holdfast.run("container", "exec", "one", "ls", "/tmp").stdout == "kept\n", "the writable layer is kept"
    assert holdfast.run("container", "logs", "one").stdout.count("begun") == 2
    holdfast.run("container", "kill", "-s", "KILL", "one")
    assert holdfast.run("container", "wait", "one", code=137).stdout == "137\n"
    holdfast.run("container", "rm", "one")


def test_logs_follow_until_the_program_ends(holdfast: Holdfast) -> None:
    holdfast.run(
        "container", "run", "-d", "--name", "two", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done"
    )
    began = time.monotonic()
    assert holdfast.run("container", "logs", "-f", "two", timeout=20).stdout == "1\n2\n3\n"
    assert time.monotonic() - began < 10
    assert holdfast.run("container", "logs", "-n", "1", "two").stdout == "3\n"


def test_a_reader_that_goes_away_is_no_error_worth_words(holdfast: Holdfast) -> None:
    holdfast.run("container", "run", "--name", "much", "busybox", "sh", "-c", "seq 1 20000")
    with subprocess.Popen(
        holdfast.argv("container", "logs", "much"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=holdfast.environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"1\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 141


def test_images_are_built_tagged_run_and_removed(holdfast: Holdfast, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello from a build\n")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG WHO=nobody\nRUN echo $WHO > /who\nCOPY greeting /greeting\n"
        'CMD ["cat", "/greeting", "/who"]\n'
    )
    holdfast.run("image", "build", "-t", "built", "--build-arg", "WHO=somebody", str(tmp_path))
    assert holdfast.run("container", "run", "--rm", "built").stdout == "hello from a build\nsomebody\n"
    again = holdfast.run("image", "build", "-q", "-t", "built", "--build-arg", "WHO=somebody", str(tmp_path))
    assert again.stdout.strip() == holdfast.json("image", "inspect", "built")[0]["id"]
    holdfast.run("image", "tag", "built", "other")
    holdfast.run("image", "rm", "built")
    assert holdfast.run("container", "run", "--rm", "other").returncode == 0
    holdfast.run("image", "rm", "other")
    holdfast.run("image", "rm", "other", code=1)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 3\n")
    failed = holdfast.run("image", "build", "-t", "broken", str(tmp_path), code=1)
    assert "RUN exit 3" in failed.stderr or "exit 3" in failed.stderr


def test_names_on_a_network_and_data_in_a_volume_outlive_containers(holdfast: Holdfast) -> None:
    holdfast.run("network", "create", "lan")
    holdfast.run("volume", "create", "data")
    try:
        holdfast.run("container", "run", "-d", "--name", "server", "--network", "lan", "-v", "data:/data", "busybox",
                     "sh", "-c", "echo kept > /data/file; while :; do nc -l -p 80 -e echo hello; done")  # fmt: skip

        def answer() -> str:
            return holdfast.run(
                "container", "run", "--rm", "--network", "lan", "busybox", "nc", "server", "80", code=None
            ).stdout

        wait_until(lambda: answer() == "hello\n", "the server answers by its name")
        assert holdfast.json("network", "inspect", "lan")[0]["members"] == [holdfast.containers()[0]["id"]]
        holdfast.run("volume", "rm", "data", code=1)
        holdfast.run("container", "rm", "-f", "server")
        kept = holdfast.run("container", "run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file").stdout
        assert kept == "kept\n"
    finally:
        holdfast.run("container", "rm", "-f", "server")
        holdfast.run("network", "rm", "-f", "lan")
        holdfast.run("volume", "rm", "-f", "data")


def test_system_tells_what_the_host_can_do(holdfast: Holdfast) -> None:
    info = json.loads(holdfast.run("system", "info", "--json").stdout)
    assert info["root"] == holdfast.layout.root and info["kernel"] == os.uname().release and info["agent"] is False
    assert json.loads(holdfast.run("system", "df", "--json").stdout)["images"]["total"] > 0
    assert "freed" in holdfast.run("system", "prune").stderr
