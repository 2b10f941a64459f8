"""Docker's words for ports, mounts, limits, durations and sizes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from reconciler.cli.options import parse_mount, parse_port, parse_tmpfs, parse_ulimit, parse_volume
from reconciler.cli.output import age, clean, iso_time, size
from reconciler.cli.values import parse_duration, parse_environment, parse_moment, parse_size
from runtime.api import Mount, Port, Ulimit


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [Port(80, 0)]),
        ("8080:80", [Port(80, 8080)]),
        ("127.0.0.1:8080:80/tcp", [Port(80, 8080, "tcp", "127.0.0.1")]),
        ("127.0.0.1::80", [Port(80, 0, "tcp", "127.0.0.1")]),
        ("[::1]:8080:80/udp", [Port(80, 8080, "udp", "::1")]),
        ("8080-8081:80-81", [Port(80, 8080), Port(81, 8081)]),
    ],
)
def test_ports(text: str, ports: list[Port]) -> None:
    assert parse_port(text) == ports


@pytest.mark.parametrize(
    "text", ["", "0:80", "80:70000", "1-2:80-82", "a:80", "80/sctp", "999.1.1.1:1:2", "1:2:3:4", "8-7:1-2"]
)
def test_wrong_ports_are_usage_errors(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_port(text)


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    assert parse_volume("data:/var/data:ro,nocopy") == Mount("volume", "/var/data", "data", True, True)
    assert parse_volume("/anonymous") == Mount("volume", "/anonymous", "")
    assert parse_volume("./d:/d:rslave") == Mount("bind", "/d", str(tmp_path / "d"), propagation="rslave")
    assert parse_volume(f"{tmp_path}:/x:z") == Mount("bind", "/x", str(tmp_path))


@pytest.mark.parametrize("text", ["/missing-source:/x", "a:b", "a:/b:wrong", ":/x", "a::/b", "bad name:/x"])
def test_wrong_volumes_are_usage_errors(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_volume(text)


def test_mounts_and_tmpfs(tmp_path: Path) -> None:
    assert parse_mount(f"type=bind,src={tmp_path},dst=/x,readonly") == Mount("bind", "/x", str(tmp_path), True)
    assert parse_mount("source=data,target=/x,volume-subpath=a/b") == Mount("volume", "/x", "data", subpath="a/b")
    assert parse_mount("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700") == Mount(
        "tmpfs", "/x", tmpfs_size=1 << 20, tmpfs_mode=0o700
    )
    assert parse_tmpfs("/run:size=64k,mode=755,noexec,ro") == Mount(
        "tmpfs", "/run", read_only=True, tmpfs_size=64 << 10, tmpfs_mode=0o755, tmpfs_options=("noexec",)
    )
    for wrong in ("type=nfs,dst=/x", "dst=x", "type=bind,src=/no/such,dst=/x", "colour=red"):
        with pytest.raises(click.UsageError):
            parse_mount(wrong)


def test_ulimits() -> None:
    assert parse_ulimit("nofile=1024:2048") == Ulimit("nofile", 1024, 2048)
    assert parse_ulimit("core=unlimited") == Ulimit("core", -1, -1)
    with pytest.raises(click.UsageError):
        parse_ulimit("nofile")


def test_environment_goes_over_files_and_bare_names_come_from_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "mine")
    monkeypatch.delenv("NOT_THERE", raising=False)
    file = tmp_path / "env"
    file.write_text("# comment\nA=file\nB=two words # kept\n\nOURS\n")
    assert parse_environment(["A=word", "NOT_THERE"], [str(file)]) == {
        "A": "word",
        "B": "two words # kept",
        "OURS": "mine",
    }
    with pytest.raises(click.UsageError):
        parse_environment([], [str(tmp_path / "missing")])
    with pytest.raises(click.UsageError):
        parse_environment(["=x"], [])


def test_durations_sizes_and_moments() -> None:
    assert parse_duration("1h30m") == 5400 and parse_duration("500ms") == 0.5 and parse_duration("2") == 2
    assert parse_size("1.5g") == 3 << 29 and parse_size("10") == 10 and parse_size("2KiB") == 2048
    assert parse_moment("10m", now=1000.0) == 400.0
    assert parse_moment("1970-01-01T00:01:00Z") == 60.0
    assert parse_moment("1700000000") == 1700000000.0
    for parse, wrong in ((parse_duration, "1x"), (parse_duration, ""), (parse_size, "big"), (parse_moment, "soon")):
        with pytest.raises(ValueError, match=r"no|neither"):
            parse(wrong)


def test_what_people_read() -> None:
    assert [age(100.0, now) for now in (100.0, 160.0, 100 + 7200, 100 + 3 * 86400)] == ["0s", "60s", "2h", "3d"]
    assert age(0.0) == "-"
    assert (size(10), size(1536), size(5 << 30)) == ("10 B", "1.5 KiB", "5.0 GiB")
    assert iso_time(0.25) == "1970-01-01T00:00:00.250Z" and iso_time(0) is None
    assert clean("a\x1b[31m\nb") == "a?[31m?b"
