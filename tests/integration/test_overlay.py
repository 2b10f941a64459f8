"""Overlay directories: prepared, mounted volatile again and again, looked into, copied from, removed."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from runtime.errors import InvalidSpec
from runtime.snapshot import overlay

pytestmark = pytest.mark.root


def mount_volatile(writable: overlay.Writable, lower: Path, command: str) -> int:
    options = f"lowerdir={lower},upperdir={writable.upper},workdir={writable.work},volatile"
    script = f'mount -t overlay holdfast-test -o "{options}" "{writable.merged}" && {{ {command}; }}'
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=False).returncode


def test_a_volatile_upper_can_be_mounted_again_once_prepared(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    writable = overlay.prepare(str(tmp_path / "c"))
    assert mount_volatile(writable, lower, f"echo 1 > {writable.merged}/f") == 0
    assert mount_volatile(writable, lower, "true") != 0, "the kernel no longer refuses: clear_volatile is not needed"
    assert overlay.prepare(str(tmp_path / "c")) == writable
    assert mount_volatile(writable, lower, f"test -e {writable.merged}/f") == 0
    assert stat.S_IMODE(os.stat(tmp_path / "c").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(writable.upper).st_mode) == 0o755


def layers(tmp_path: Path) -> tuple[list[str], str]:
    upper, top, base = (tmp_path / name for name in ("upper", "top", "base"))
    for folder in (upper, top / "etc", base / "etc/sub", base / "data", base / "usr/lib", top / "data"):
        folder.mkdir(parents=True)
    (base / "etc/passwd").write_text("base")
    (base / "etc/sub/deep").write_text("deep")
    (base / "etc/old").write_text("old")
    (base / "data/hidden").write_text("hidden")
    (base / "usr/lib/os-release").write_text("release")
    os.symlink("usr/lib", base / "lib")
    os.symlink("../lib/os-release", base / "etc/os-release")
    os.symlink("/etc/passwd", base / "absolute")
    os.symlink("../../../../../../etc/hostname", base / "escape")
    os.symlink("loop", base / "loop")
    (top / "etc/passwd").write_text("top")
    os.mknod(top / "etc/old", stat.S_IFCHR, 0)
    (top / "data/shown").write_text("shown")
    os.setxattr(top / "data", overlay.OPAQUE, b"y")
    return [str(top), str(base)], str(upper)


def test_paths_are_resolved_as_inside_the_container(tmp_path: Path) -> None:
    lowers, upper = layers(tmp_path)

    def find(path: str) -> str | None:
        return overlay.path_in_layers(lowers, upper, path)

    assert find("/etc/passwd") == find("absolute") == f"{lowers[0]}/etc/passwd"
    assert find("/etc/os-release") == f"{lowers[1]}/usr/lib/os-release"
    assert find("/lib/../lib/os-release") == f"{lowers[1]}/usr/lib/os-release"
    assert find("/etc/old") is None and find("/data/hidden") is None and find("/nothing") is None
    assert find("/escape") is None, "resolved on the host"
    assert find("/loop") is None and find("/etc/passwd/") is None and find("/etc/passwd/x") is None
    assert find("/") == upper and find("../../..") == upper
    assert overlay.read_in_layers(lowers, upper, "absolute") == b"top"
    assert overlay.read_in_layers(lowers, upper, "/etc") is None
    with pytest.raises(InvalidSpec):
        overlay.read_in_layers(lowers, upper, "/etc/passwd", limit=2)
    assert overlay.list_in_layers(lowers, upper, "/etc") == ["os-release", "passwd", "sub"]
    assert overlay.list_in_layers(lowers, upper, "/data") == ["shown"]


def test_a_fifo_in_place_of_a_file_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "passwd")
    assert overlay.read_in_layers([str(tmp_path)], None, "passwd") is None


def test_a_directory_swapped_for_a_symlink_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/shadow").write_text("container's")
    real = overlay._resolve

    def swapping(found: list[str], path: str) -> object:
        answer = real(found, path)
        os.rename(upper / "etc", upper / "was")
        os.symlink("/etc", upper / "etc")
        return answer

    monkeypatch.setattr(overlay, "_resolve", swapping)
    assert overlay.read_in_layers([], str(upper), "etc/shadow") is None


def test_initial_volume_content_keeps_everything(tmp_path: Path) -> None:
    lowers, upper = layers(tmp_path)
    os.chown(f"{lowers[0]}/etc", 5, 6)
    os.chmod(f"{lowers[0]}/etc", 0o750)
    os.link(f"{lowers[0]}/etc/passwd", f"{lowers[0]}/etc/same")
    os.mkdir(tmp_path / "volume")
    assert overlay.copy_from_layers(lowers, upper, "/etc", str(tmp_path / "volume"))
    found = os.stat(tmp_path / "volume")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (5, 6, 0o750)
    assert sorted(os.listdir(tmp_path / "volume")) == ["os-release", "passwd", "same", "sub"]
    assert (tmp_path / "volume/passwd").read_text() == "top" and (tmp_path / "volume/sub/deep").read_text() == "deep"
    assert os.path.samefile(tmp_path / "volume/passwd", tmp_path / "volume/same")
    assert not os.path.samefile(tmp_path / "volume/passwd", f"{lowers[0]}/etc/passwd")
    assert overlay.copy_from_layers(lowers, upper, "/data", str(tmp_path / "data"))
    assert os.listdir(tmp_path / "data") == ["shown"] and os.listxattr(tmp_path / "data") == []


def test_absent_and_empty_directories_cost_nothing(tmp_path: Path) -> None:
    lowers, upper = layers(tmp_path)
    os.mkdir(f"{upper}/empty")
    os.mkdir(tmp_path / "volume")
    began = time.perf_counter()
    for _ in range(100):
        assert not overlay.copy_from_layers(lowers, upper, "/nothing", str(tmp_path / "volume"))
        assert not overlay.copy_from_layers(lowers, upper, "/etc/passwd", str(tmp_path / "volume"))
        assert overlay.copy_from_layers(lowers, upper, "/empty", str(tmp_path / "volume"))
    assert time.perf_counter() - began < 0.2


def test_a_tree_is_gone_from_its_place_and_then_from_the_trash(tmp_path: Path) -> None:
    trash = tmp_path / "trash"
    trash.mkdir()
    (tmp_path / "tree/a/b").mkdir(parents=True)
    os.symlink("/etc", tmp_path / "tree/a/link")
    os.chmod(tmp_path / "tree/a", 0)
    overlay.remove_tree(str(tmp_path / "tree"), str(trash))
    overlay.remove_tree(str(tmp_path / "tree"), str(trash))
    overlay.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists() and os.listdir(trash) == [] and os.path.exists("/etc/passwd")
    (trash / "left/over").mkdir(parents=True)
    (trash / "file").write_text("")
    assert overlay.empty_trash(str(trash)) == 2 and os.listdir(trash) == []
    assert overlay.empty_trash(str(tmp_path / "none")) == 0


def test_a_tree_is_removed_even_where_it_cannot_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    overlay.remove_tree(str(tmp_path / "tree"), "/dev/shm")
    assert not (tmp_path / "tree").exists()


def test_the_size_of_a_tree_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(bytes(100_000))
    once = overlay.tree_size(str(tmp_path))
    os.link(tmp_path / "d/a", tmp_path / "d/b")
    assert overlay.tree_size(str(tmp_path)) == once >= 100_000
    assert overlay.tree_size(str(tmp_path / "none")) == 0
