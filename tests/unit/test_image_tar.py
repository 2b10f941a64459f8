"""Tar headers: what other programs write is read, what nobody should write is refused."""

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import CorruptContent
from runtime.image import tar


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def entries(data: bytes, size: int = 700) -> list[tuple[tar.Entry, bytes]]:
    reader = tar.TarReader(chunks(data, size))
    return [(entry, b"".join(bytes(part) for part in reader.content())) for entry in reader]


def test_headers_written_are_read_by_tarfile_and_by_us() -> None:
    long_name, long_link = b"d/" + b"n" * 300, b"t" * 250
    data = (
        tar.header(long_name, tar.REGULAR, 0o4755, 3_000_000, 8, 5, 1234, xattrs={b"user.a": b"x=\n\0y"})
        + b"hello".ljust(512, b"\0")
        + tar.header(b"link", tar.SYMLINK, 0o777, 1, 2, 0, -5, long_link)
        + tar.header(b"null", tar.CHARACTER, 0o666, 0, 0, device=(1, 3))
        + tar.END
    )
    file, link, null = (entry for entry, _ in entries(data))
    assert (file.name, file.mode, file.uid, file.size) == (long_name, 0o4755, 3_000_000, 5)
    assert file.xattrs == {"user.a": b"x=\n\0y"}
    assert (link.link, link.mtime_ns) == (long_link, -5_000_000_000)
    assert (null.kind, null.major, null.minor) == (tar.CHARACTER, 1, 3)
    with tarfile.open(fileobj=io.BytesIO(data)) as theirs:
        members = theirs.getmembers()
        assert [os.fsencode(member.name) for member in members] == [long_name, b"link", b"null"]
        assert (members[0].uid, members[1].mtime, members[2].devminor) == (3_000_000, -5, 3)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 512, 100_000])
def test_every_form_that_tarfile_writes_is_read_in_any_chunks(form: int, size: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as theirs:
        for name, content in (("a/" + "b" * 60 + "/" + "c" * 70, b"x" * 1000), ("ümlaut", b""), ("z", b"y" * 512)):
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mtime = len(content), 77, 99
            theirs.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("hard")
        info.type, info.linkname, info.size = tarfile.LNKTYPE, "z", 0
        theirs.addfile(info)
    read = entries(buffer.getvalue(), size)
    assert [(os.fsdecode(entry.name), content) for entry, content in read] == [
        ("a/" + "b" * 60 + "/" + "c" * 70, b"x" * 1000),
        ("ümlaut", b""),
        ("z", b"y" * 512),
        ("hard", b""),
    ]
    assert all(entry.uid == 77 for entry, _ in read[:3])
    assert (read[3][0].kind, read[3][0].link) == (tar.HARD_LINK, b"z")


@pytest.mark.parametrize(
    "form", ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"]
)
def test_sparse_files_of_gnu_tar_keep_their_holes(tmp_path: Path, form: str) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for number in range(40):  # more parts than fit into one header
            file.seek(number * 300_000)
            file.write(b"%04d" % number)
        file.truncate(40 * 300_000)
    kind, *options = form.split()
    made = subprocess.run(
        ["tar", "-C", tmp_path, "--sparse", f"--format={kind}", *options, "-cf", "-", "sparse"],
        check=True,
        capture_output=True,
    )
    entry, content = entries(made.stdout)[0]
    assert (entry.name, entry.size, entry.kind) == (b"sparse", 12_000_000, tar.REGULAR)
    assert entry.extents is not None
    whole = bytearray(entry.size)
    for offset, length in entry.extents:
        whole[offset : offset + length] = content[:length]
        content = content[length:]
    assert bytes(whole) == (tmp_path / "sparse").read_bytes()


def good() -> bytes:
    return tar.header(b"a", tar.REGULAR, 0o644, 0, 0, 600) + bytes(1024) + tar.END


def resealed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def test_a_damaged_header_is_refused() -> None:
    data = bytearray(good())
    data[3] ^= 1
    with pytest.raises(CorruptContent, match="checksum"):
        entries(bytes(data))


@pytest.mark.parametrize("cut", [100, 512, 600, 1100])
def test_a_tar_that_ends_inside_an_entry_is_refused(cut: int) -> None:
    with pytest.raises(CorruptContent, match="truncated"):
        entries(good()[:cut])


@pytest.mark.parametrize(
    ("at", "field"),
    [
        (124, b"\xff" * 12),  # negative size
        (124, b"\x80" + b"\xff" * 11),  # size beyond any disk
        (124, b"99999999999\0"),  # not octal
        (108, b"\x80\0\0\x01\0\0\0\0"),  # uid beyond 32 bits
        (136, b"\x80" + b"\x7f" * 11),  # a time no clock shows
    ],
)
def test_impossible_numbers_are_refused(at: int, field: bytes) -> None:
    data = bytearray(good())
    data[at : at + len(field)] = field
    with pytest.raises(CorruptContent):
        entries(resealed(data))


@pytest.mark.parametrize(
    "records",
    [
        b"12 path=a\0b\n",
        b"5 x\n",
        b"99 path=x\n",
        b"x path=a\n",
        b"11 size=-1\n",
        b"12 uid=1e99\n",
        b"20 GNU.sparse.map=1\n",
    ],
)
def test_malformed_extended_headers_are_refused(records: bytes) -> None:
    data = tar.header(b"p", b"x", 0, 0, 0, len(records)) + records.ljust(512, b"\0") + good()
    with pytest.raises(CorruptContent):
        entries(data)


def test_a_sparse_map_that_claims_more_than_the_stream_holds_is_refused() -> None:
    records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n31 GNU.sparse.realsize=9999999\n"
    content = b"1\n0\n5000\n".ljust(512, b"\0")
    data = tar.header(b"p", b"x", 0, 0, 0, len(records)) + records.ljust(512, b"\0")
    data += tar.header(b"a", tar.REGULAR, 0o644, 0, 0, 512) + content + tar.END
    with pytest.raises(CorruptContent, match="does not fit"):
        entries(data)


def test_an_endless_extended_header_is_refused_before_it_is_read() -> None:
    data = tar.header(b"p", b"x", 0, 0, 0, 1 << 30)
    with pytest.raises(CorruptContent, match="too long"):
        entries(data)
