"""Layers unpacked for real: everything a tar can say arrives, and nothing ever leaves the directory."""

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.errors import CorruptContent
from runtime.image import tar
from runtime.image.extract import extract
from runtime.image.layer import LayerStream
from runtime.image.store import ImageStore
from runtime.layout import Layout
from runtime.snapshot.overlay import is_opaque, is_whiteout
from tests.support.images import digest, layer_tar

pytestmark = pytest.mark.root
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory to unpack into, with things beside it that an escape would touch."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("untouched")
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def nothing_outside_was_touched(tmp_path: Path) -> Iterator[None]:
    yield
    if (tmp_path / "outside").exists():
        assert os.listdir(tmp_path / "outside") == ["victim"]
        assert (tmp_path / "outside/victim").read_text() == "untouched"
        assert stat.S_IMODE((tmp_path / "outside/victim").stat().st_mode) == 0o644
    assert set(os.listdir(tmp_path)) <= {"root", "outside", "state", "run"}


def unpack(data: bytes, root: Path, **limits: int) -> int:
    return extract(iter([data[at : at + 10_000] for at in range(0, len(data), 10_000)]), str(root), **limits)


def file(name: bytes, content: bytes = b"", mode: int = 0o644, **more: object) -> bytes:
    body = content + bytes(-len(content) % 512)
    return tar.header(name, tar.REGULAR, mode, 0, 0, len(content), **more) + body  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, mtime: int = 0) -> bytes:
    return tar.header(name, tar.DIRECTORY, mode, 0, 0, 0, mtime)


def symlink(name: bytes, link: bytes) -> bytes:
    return tar.header(name, tar.SYMLINK, 0o777, 0, 0, 0, 0, link)


def hard_link(name: bytes, link: bytes) -> bytes:
    return tar.header(name, tar.HARD_LINK, 0o644, 0, 0, 0, 0, link)


# ---- what arrives


def test_everything_about_an_entry_arrives(root: Path) -> None:
    unpack(
        directory(b"./d/", 0o2750, 77)
        + tar.header(b"d/f", tar.REGULAR, 0o4711, 1000, 2000, 3, 1234567, xattrs={b"security.capability": CAPABILITY})
        + b"abc".ljust(512, b"\0")
        + hard_link(b"d/g", b"./d/f")
        + tar.header(b"s", tar.SYMLINK, 0o777, 5, 6, 0, 99, b"../../outside/victim")
        + tar.header(b"null", tar.CHARACTER, 0o666, 0, 0, device=(1, 3))
        + tar.header(b"pipe", tar.FIFO, 0o600, 7, 7)
        + file(b"deep/er/f")
        + tar.END,
        root,
    )
    found = os.stat(root / "d/f")
    assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o4711, 1000, 2000)
    assert (found.st_mtime, found.st_nlink, found.st_size) == (1234567, 2, 3)
    assert os.getxattr(root / "d/f", "security.capability") == CAPABILITY
    folder = os.stat(root / "d")
    assert (stat.S_IMODE(folder.st_mode), folder.st_mtime) == (0o2750, 77)
    link = os.lstat(root / "s")
    assert (os.readlink(root / "s"), link.st_uid, link.st_mtime) == ("../../outside/victim", 5, 99)
    assert os.stat(root / "null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(os.stat(root / "pipe").st_mode) and os.stat(root / "pipe").st_uid == 7
    assert stat.S_IMODE(os.stat(root / "deep/er").st_mode) == 0o755


def test_whiteouts_take_overlays_form(root: Path) -> None:
    unpack(
        file(b".wh.gone")
        + file(b"etc/.wh.passwd")
        + directory(b"var/")
        + file(b"var/.wh..wh..opq")
        + file(b"var/new", b"x")
        + file(b".wh..wh.plnk/1")
        + tar.END,
        root,
    )
    assert is_whiteout(os.lstat(root / "gone")) and is_whiteout(os.lstat(root / "etc/passwd"))
    assert is_opaque(str(root / "var")) and (root / "var/new").read_text() == "x"


@pytest.mark.parametrize("order", ["removal first", "content first"])
def test_content_of_the_layer_itself_outlives_a_whiteout_of_its_name(root: Path, order: str) -> None:
    parts = [file(b".wh.d"), directory(b"d/") + file(b"d/f", b"new")]
    unpack(b"".join(parts if order == "removal first" else parts[::-1]) + tar.END, root)
    assert (root / "d/f").read_text() == "new" and is_opaque(str(root / "d"))


def test_a_later_entry_replaces_an_earlier_one(root: Path) -> None:
    unpack(
        file(b"a", b"1") + file(b"a", b"two") + directory(b"b/") + file(b"b/x") + symlink(b"b", b"a")
        + symlink(b"c", b"a") + directory(b"c/") + file(b"c/y", b"y") + file(b"a", b"3")
        + directory(b"a2") + file(b"a2/z") + file(b"a2", b"file now") + tar.END,
        root,
    )  # fmt: skip
    assert (root / "a").read_text() == "3" and os.readlink(root / "b") == "a"
    assert (root / "c/y").read_text() == "y" and (root / "a2").read_text() == "file now"


def test_more_directories_than_may_be_open_at_once(root: Path) -> None:
    names = [b"%d/%d/%d" % (i % 30, i % 700, i) for i in range(2000)]
    assert unpack(b"".join(file(name, name) for name in names) + tar.END, root) == 2000
    assert all((root / os.fsdecode(name)).read_bytes() == name for name in names)


# ---- what must not


LONG = b"x" * 300
ATTACKS: dict[str, bytes] = {
    "dotdot": file(b"../outside/evil"),
    "dotdot inside": file(b"a/../../outside/evil"),
    "dotdot directory": directory(b"../outside/evil/"),
    "symlinked directory": symlink(b"d", b"../outside") + file(b"d/evil"),
    "symlink to absolute": symlink(b"d", b"/") + file(b"d/tmp/evil-of-holdfast"),
    "symlink in the middle": symlink(b"d", b"../outside") + file(b"d/x/evil"),
    "directory through symlink": symlink(b"d", b"../outside") + directory(b"d/evil/"),
    "symlink through symlink": symlink(b"d", b"../outside") + symlink(b"d/evil", b"x"),
    "device through symlink": symlink(b"d", b"../outside") + tar.header(b"d/evil", tar.FIFO, 0o600, 0, 0),
    "hard link source through symlink": symlink(b"d", b"../outside") + hard_link(b"evil", b"d/victim"),
    "hard link source by dotdot": hard_link(b"evil", b"../outside/victim"),
    "hard link target through symlink": file(b"f") + symlink(b"d", b"../outside") + hard_link(b"d/evil", b"f"),
    "whiteout through symlink": symlink(b"d", b"../outside") + file(b"d/.wh.evil"),
    "opaque through symlink": symlink(b"d", b"../outside") + file(b"d/.wh..wh..opq"),
    "whiteout of dotdot": file(b"d/.wh..."[:7]),
    "below a device": tar.header(b"null", tar.CHARACTER, 0o666, 0, 0, device=(1, 3)) + file(b"null/x"),
    "a hand-made whiteout": tar.header(b"gone", tar.CHARACTER, 0o666, 0, 0, device=(0, 0)),
    "hard link to a directory": directory(b"d/") + hard_link(b"e", b"d"),
    "hard link to nothing": hard_link(b"e", b"missing"),
    "zero byte in a pax name": tar.header(b"p", b"x", 0, 0, 0, 12) + b"12 path=a\0b\n".ljust(512, b"\0") + file(b"f"),
    "unknown type": tar.header(b"f", b"Z", 0o644, 0, 0),
    "nameless": file(b"")[:512] + b"".ljust(512, b"\1"),
    "component too long": file(LONG),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_touches_nothing_outside(tmp_path: Path, attack: str) -> None:
    """Through the store, as in real life: there also the kernel's refusals become CorruptContent."""
    store = ImageStore(Layout(str(tmp_path / "state"), str(tmp_path / "run")))
    with pytest.raises(CorruptContent):
        store.add_layer_from_tar(io.BytesIO(ATTACKS[attack] + tar.END))
    assert os.listdir(store.layout.layers) == [] and os.listdir(store.layout.ingest) == []
    assert not os.path.exists("/tmp/evil-of-holdfast")


@pytest.mark.parametrize("attack", [name for name in ATTACKS if ATTACKS[name].find(b"../outside") >= 0])
def test_the_attacks_are_real(root: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the two checks taken away the same tars do get out, so the test above would notice their loss."""
    import runtime.image.extract as module

    def unchecked(name: bytes) -> bytes:
        return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))

    monkeypatch.setattr(module, "clean_name", unchecked)
    monkeypatch.setattr(module, "_FOLDER", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    unpack(ATTACKS[attack] + tar.END, root)
    outside = root.parent / "outside"
    stolen = (root / "evil").exists() and os.path.samefile(root / "evil", outside / "victim")
    assert os.listdir(outside) != ["victim"] or is_opaque(str(outside)) or stolen
    shutil.rmtree(outside)


def test_overlays_own_attributes_never_come_from_a_tar(root: Path) -> None:
    evil = {b"trusted.overlay.redirect": b"/etc", b"trusted.overlay.opaque": b"y", b"user.fine": b"1"}
    unpack(file(b"f", xattrs=evil) + tar.END, root)
    assert os.listxattr(root / "f") == ["user.fine"]


def test_counts_and_sizes_are_bounded(root: Path) -> None:
    with pytest.raises(CorruptContent, match="more than 10 entries"):
        unpack(b"".join(file(b"%d" % i) for i in range(11)) + tar.END, root, max_entries=10)
    with pytest.raises(CorruptContent, match="longer"):
        unpack(file(b"big", b"x" * 1000) + tar.END, root, max_bytes=999)
    with pytest.raises(CorruptContent, match="too deep"):
        unpack(file(b"d/" * 600 + b"f") + tar.END, root)


def test_a_decompression_bomb_is_stopped(root: Path) -> None:
    # members of nothing but zeros inside a gzip inside … do not nest; one level of gzip reaches a factor of 1030
    bomb = gzip.compress(layer_tar({"zeros": bytes(8 << 20)}), 9)
    with pytest.raises(CorruptContent, match="longer than"):
        extract(iter(LayerStream(io.BytesIO(bomb), limit=1 << 20)), str(root))


def zstd(data: bytes) -> bytes:
    from backports import zstd as module

    compressed: bytes = module.compress(data)
    return compressed


def members(data: bytes) -> bytes:
    """A gzip file of many members, as layers with an index inside have."""
    return b"".join(gzip.compress(data[at : at + 3000], 1) for at in range(0, len(data), 3000))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd, members], ids=["plain", "gzip", "zstd", "members"])
def test_each_compression_is_verified_to_the_last_byte(root: Path, compress: Callable[[bytes], bytes]) -> None:
    data = layer_tar({"a": os.urandom(30_000), "b": b"b"})
    packed = compress(data)

    def read(raw: bytes, blob_digest: str = "", diff_id: str = "") -> str:
        stream = LayerStream(io.BytesIO(raw), blob_digest, diff_id)
        assert b"".join(stream) == data
        return stream.diff_id

    assert read(packed, blob_digest=digest(packed), diff_id=digest(data)) == digest(data)
    with pytest.raises(CorruptContent, match="diff id"):
        read(packed, diff_id=digest(b"other"))
    with pytest.raises(CorruptContent, match="its digest"):
        read(packed, blob_digest=digest(b"other"))
    with pytest.raises(CorruptContent):
        extract(iter(LayerStream(io.BytesIO(packed[: len(packed) // 2]))), str(root))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    with pytest.raises(CorruptContent):
        extract(iter(LayerStream(io.BytesIO(bytes(damaged)), diff_id=digest(data))), str(root))


def test_a_truncation_between_entries_is_noticed_by_the_compression(root: Path) -> None:
    data = layer_tar({"a": bytes(512), "b": b"b"})
    whole = gzip.compress(data, 0)
    with pytest.raises(CorruptContent, match="truncated"):
        extract(iter(LayerStream(io.BytesIO(whole[: 10 + 5 + 1024]))), str(root))


def test_what_follows_the_end_still_counts_for_the_digest(root: Path) -> None:
    data = layer_tar({"a": b"1"}) + bytes(20_000)
    stream = LayerStream(io.BytesIO(data))
    extract(iter(stream), str(root))
    assert stream.diff_id == digest(data)


def test_tarfiles_own_output_of_a_real_directory(root: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as theirs:
        theirs.add("/etc/apt", "apt")
    unpack(buffer.getvalue(), root)
    assert sorted(os.listdir(root / "apt")) == sorted(os.listdir("/etc/apt"))
