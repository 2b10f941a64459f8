"""Bootstraps from the distribution's packages: made once a request, clean, reproducible, nothing left after failure."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.api import BootstrapRequest
from runtime.errors import BuildFailed, DiskFull, InvalidSpec, Unsupported
from runtime.image import apt
from runtime.image import bootstrap as module
from runtime.image.bootstrap import bootstrap, check, request_digest
from runtime.image.store import ImageStore
from runtime.layout import Layout

pytestmark = pytest.mark.root
needs_mmdebstrap = pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    tmp_path.chmod(0o755)
    return ImageStore(Layout(str(tmp_path / "state"), str(tmp_path / "run")))


def test_equal_requests_have_one_digest() -> None:
    one = BootstrapRequest("host", ("a", "b"))
    assert request_digest(one) == request_digest(BootstrapRequest(apt.host_codename(), ("b", "a", "a")))
    for other in (
        BootstrapRequest("host", ("a",)),
        BootstrapRequest("sid", ("a", "b")),
        BootstrapRequest("host", ("a", "b"), "apt"),
        BootstrapRequest("host", ("a", "b"), mirror="http://x"),
        BootstrapRequest("host", ("a", "b"), config={"User": "a"}),
    ):
        assert request_digest(other) != request_digest(one)


@pytest.mark.parametrize(
    "request_",
    [
        BootstrapRequest("--help"),
        BootstrapRequest("bookworm", ("--setup-hook=touch /tmp/evil",)),
        BootstrapRequest("bookworm", ("a,b",)),
        BootstrapRequest("bookworm", ("a b",)),
        BootstrapRequest("bookworm", ("./x.deb",)),
        BootstrapRequest("bookworm", variant="huge"),
        BootstrapRequest("bookworm", mirror="-"),
        BootstrapRequest("bookworm", mirror="http://a\nb"),
        BootstrapRequest("bookworm", config=[1]),
    ],
)
def test_a_request_that_can_never_work_is_refused(request_: BootstrapRequest) -> None:
    with pytest.raises(InvalidSpec):
        check(request_)


def test_missing_mmdebstrap_is_said(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unsupported, match="mmdebstrap is not installed"):
        bootstrap(store, BootstrapRequest("bookworm"), "base", {}, None, lambda _line: None)


@needs_mmdebstrap
def test_a_bootstrap_is_clean_reproducible_and_made_once(store: ImageStore) -> None:
    lines: list[str] = []
    request = BootstrapRequest("host", ("redis-server",), config={"Cmd": ["redis-server"], "Env": ["A=b"]})
    record = bootstrap(store, request, "redis", {"stack": "s"}, None, lines.append)
    root = store.lower_dirs(record)[0]
    assert os.path.exists(f"{root}/usr/bin/redis-server") and os.path.exists(f"{root}/etc/debian_version")
    assert Path(root, "etc/machine-id").read_bytes() == b""
    assert not any(os.path.lexists(f"{root}/etc/{name}") for name in ("hostname", "resolv.conf"))
    for folder in ("dev", "tmp", "run", "var/cache/apt", "var/lib/apt/lists"):
        assert os.listdir(f"{root}/{folder}") == [], folder
    assert [files for _, _, files in os.walk(f"{root}/var/log") if files] == []
    assert not os.path.exists(f"{root}/etc/apt/apt.conf.d/99mmdebstrap")
    assert record.config["config"]["Cmd"] == ["redis-server"]
    assert record.config["config"]["Env"][0].startswith("PATH=") and "A=b" in record.config["config"]["Env"]
    assert any("installing" in line for line in lines) and not any("hook" in line for line in lines)
    assert store.verify(deep=True) == [] and os.listdir(store.layout.ingest) == []

    began = time.perf_counter()
    again = bootstrap(store, request, "again", {}, None, lines.append)
    assert again.id == record.id and again.names == ("again",) and time.perf_counter() - began < 0.5

    cached = os.listdir(f"{store.layout.root}/cache/apt")
    assert any(name.startswith("redis-server_") for name in cached)
    if not os.environ.get("HOLDFAST_LONG"):
        return
    fresh = bootstrap(store, request, "fresh", {}, None, lines.append, force=True)
    assert fresh.id == record.id, "the same packages gave another image"
    assert sorted(os.listdir(f"{store.layout.root}/cache/apt")) == sorted(cached)


@needs_mmdebstrap
def test_a_missing_package_is_named_and_nothing_is_left(store: ImageStore) -> None:
    with pytest.raises(BuildFailed, match="no package no-such-package-at-all") as caught:
        bootstrap(
            store, BootstrapRequest("host", ("no-such-package-at-all",), "apt"), "x", {}, None, lambda _line: None
        )
    assert "Unable to locate" in caught.value.message
    assert os.listdir(store.layout.ingest) == [] and os.listdir(store.layout.layers) == [] and store.list() == []


@needs_mmdebstrap
def test_an_unreachable_mirror_is_said_with_a_hint(store: ImageStore) -> None:
    with pytest.raises(BuildFailed) as caught:
        bootstrap(store, BootstrapRequest("bookworm", mirror="http://127.0.0.1:9/"), "x", {}, None, lambda _line: None)
    assert "apt sources" in caught.value.hint


@needs_mmdebstrap
def test_a_full_disk_during_a_bootstrap_is_said(tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "holdfast-test", disk], check=True)
    try:
        store = ImageStore(Layout(f"{disk}/state", str(tmp_path / "run")))
        with pytest.raises(DiskFull):
            bootstrap(store, BootstrapRequest("host"), "x", {}, None, lambda _line: None)
        assert os.listdir(store.layout.ingest) == [] and os.listdir(store.layout.layers) == []
    finally:
        subprocess.run(["umount", disk], check=True)


WORK = """
import sys
from runtime.api import BootstrapRequest
from runtime.image.bootstrap import bootstrap
from runtime.image.store import ImageStore
from runtime.layout import Layout
store = ImageStore(Layout(sys.argv[1], sys.argv[2]))
bootstrap(store, BootstrapRequest("host"), "x", {}, None, lambda line: print(line, flush=True))
"""


def processes_of(text: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in command and pid != str(os.getpid()):
            found.append(command)
    return found


@needs_mmdebstrap
def test_killed_in_the_middle_it_takes_its_processes_and_mounts_along(store: ImageStore, tmp_path: Path) -> None:
    arguments = [store.layout.root, os.path.dirname(store.layout.run)]
    with subprocess.Popen([sys.executable, "-c", WORK, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "installing" in line:
                break
        time.sleep(0.5)
        assert processes_of(f"{store.layout.ingest}/")
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes_of(f"{store.layout.ingest}/"):
        assert time.monotonic() < deadline, processes_of(f"{store.layout.ingest}/")
        time.sleep(0.05)
    assert store.layout.root not in Path("/proc/self/mountinfo").read_text()
    assert len(store.recover()) == 1
    assert os.listdir(store.layout.ingest) == [] and os.listdir(store.layout.trash) == [] and store.list() == []


def test_silence_for_too_long_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENCE", 0.5)
    code, tail = module._follow(["sh", "-c", "echo begun; sleep 60"], str(tmp_path), lambda _line: None)
    assert code < 0 and tail[0] == "begun" and "no end" in tail[-1]


def test_the_package_cache_is_bounded_and_keeps_what_was_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHE_LIMIT", 250)
    for name in ("old", "new", "used"):
        (tmp_path / name).write_bytes(bytes(100))
        time.sleep(0.01)
    os.link(tmp_path / "old", tmp_path.parent / "elsewhere")  # used again
    module._bound_cache(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["old", "used"]
    os.unlink(tmp_path.parent / "elsewhere")
