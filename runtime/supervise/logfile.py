"""Logs of a container: raw bytes as the program wrote them, and beside them an index of when and by which stream.

<dir>/<n>.log holds the bytes, <dir>/<n>.idx entries of 24 bytes (time in ns, offset, stream): the bytes from `offset`
up to the next entry's belong to `stream`. The bytes go from pipe to file inside the kernel (splice), so a supervisor
killed at any instant has either moved them or not. An entry is written before its bytes: one without bytes is
harmless, bytes without an entry would be nobody's. Lines and their times are made only when somebody reads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTRY = struct.Struct("=QQB7x")
STDOUT, STDERR, STREAM = 1, 2, 0x0F
CONTINUES = 0x10
"""Mark of a stream at the head of a file: its first line began in the file before."""
BEGINS = 0x20
"""Mark of a new run: an unfinished line of the run before ends here."""
CHUNK = 1 << 20
SAME_MOMENT = 1_000_000
"""Bytes of one stream within this many ns share an entry."""
FIONREAD = 0x541B
SHORTEST_POLL, LONGEST_POLL = 0.002, 0.025
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOENT, errno.EROFS)


def numbers(directory: str) -> list[int]:
    """The log's files, oldest first."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".log") and name[:-4].isdigit())


class LogWriter:
    """Appends what pipes hold. A full disk loses lines and never stalls the container: the pipe is emptied anyway.

    Its files are made for the first bytes only: a start does not wait for the disk, and many programs say nothing.
    """

    def __init__(self, directory: str, max_size: int = 20 << 20, max_files: int = 5) -> None:
        self.directory = directory
        self.max_size = max(max_size, 4096)
        self.max_files = max(max_files, 1)
        self.lost = 0
        """Bytes that found no room."""
        self._data = self._index = -1
        self._number = 0
        self._begins = False

    def _open(self) -> None:
        if not self._number:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            found = numbers(self.directory)
            self._number = found[-1] if found else 1
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._data = os.open(f"{self.directory}/{self._number}.log", flags, 0o600)
        self._index = os.open(f"{self.directory}/{self._number}.idx", flags, 0o600)
        self._size = os.fstat(self._data).st_size
        # An entry cut short by a full disk is written over.
        self._index_size = os.fstat(self._index).st_size // ENTRY.size * ENTRY.size
        self._last_time = self._last_stream = 0
        self._ends: dict[int, int] = {}
        if self._begins and self._index_size:
            self._put(time.time_ns(), BEGINS)
        self._begins = False

    def begin(self) -> None:
        """A new run starts: what the former left unfinished is a line of its own."""
        self._begins = True

    def _opened(self) -> bool:
        if self._index < 0:
            self.close()  # the half that a rotation could open
            try:
                self._open()
            except OSError:
                self.close()
        return self._index >= 0

    def take(self, fifo: int, stream: int) -> bool:
        """Move what `fifo` (non-blocking) holds now, at most CHUNK; False when it was empty."""
        if self._index < 0 and (not _holds_bytes(fifo) or not self._opened()):
            return self._discard(fifo)
        try:
            now, fresh = self._announce(stream)
            moved = os.splice(fifo, self._data, CHUNK, offset_dst=self._size, flags=3)  # MOVE | NONBLOCK
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            return self._discard(fifo)
        self._advance(now, fresh, stream, moved)
        return moved > 0

    def write(self, data: bytes, stream: int) -> None:
        """The same for bytes of a terminal, which cannot be spliced."""
        if not self._opened():
            self.lost += len(data)
            return
        try:
            now, fresh = self._announce(stream)
            written = os.pwrite(self._data, data, self._size)
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            written = 0
        else:
            self._advance(now, fresh, stream, written)
        self.lost += len(data) - written

    def _announce(self, stream: int) -> tuple[int, bool]:
        """Write the entry for bytes that may follow; it counts, and stays, only once they do."""
        if self._size >= self.max_size:
            self._rotate()
        now = time.time_ns()
        if stream == self._last_stream and 0 <= now - self._last_time < SAME_MOMENT:
            return now, False
        if os.pwrite(self._index, ENTRY.pack(now, self._size, stream), self._index_size) != ENTRY.size:
            raise OSError(errno.ENOSPC, "an index entry found no room")
        return now, True

    def _advance(self, now: int, fresh: bool, stream: int, moved: int) -> None:
        if moved <= 0:
            return
        if fresh:
            self._index_size += ENTRY.size
            self._last_time, self._last_stream = now, stream
        self._size += moved
        self._ends[stream] = self._size

    def _put(self, now: int, mark: int) -> None:
        try:
            written = os.pwrite(self._index, ENTRY.pack(now, self._size, mark), self._index_size)
        except OSError:
            return
        if written == ENTRY.size:
            self._index_size += written
            self._last_stream = 0

    def _discard(self, fifo: int) -> bool:
        try:
            data = os.read(fifo, CHUNK)
        except OSError:
            return False
        self.lost += len(data)
        return bool(data)

    def _rotate(self) -> None:
        """Go on in a new file, and note which streams are in the middle of a line."""
        cut = [stream for stream, end in self._ends.items() if os.pread(self._data, 1, end - 1) != b"\n"]
        self.close()
        self._number += 1
        self._open()
        for stream in cut:
            self._put(time.time_ns(), stream | CONTINUES)
        for number in numbers(self.directory)[: -self.max_files]:
            for suffix in ("idx", "log"):
                try:
                    os.unlink(f"{self.directory}/{number}.{suffix}")
                except OSError:
                    continue

    def close(self) -> None:
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1


def _holds_bytes(fifo: int) -> bool:
    return any(fcntl.ioctl(fifo, FIONREAD, b"\0" * 4))


class LogCursor:
    """Reads a log's chunks in order, and later again what has come since; follows rotation."""

    def __init__(self, directory: str, number: int = 0, entry: int = 0) -> None:
        """From entry `entry` of file `number`; 0: the oldest file."""
        self.directory = directory
        self._number = number
        self._entry = entry
        self._offset = 0
        self._data = self._index = -1

    def close(self) -> None:
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    def _open(self) -> bool:
        if self._data >= 0:
            return True
        if not self._number:
            found = numbers(self.directory)
            if not found:
                return False
            self._number = found[0]
        try:
            self._data = os.open(f"{self.directory}/{self._number}.log", os.O_RDONLY | os.O_CLOEXEC)
            self._index = os.open(f"{self.directory}/{self._number}.idx", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.close()
            return False
        return True

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """(time in ns, stream with marks, bytes) of all that is there now."""
        while self._open():
            later = [number for number in numbers(self.directory) if number > self._number]
            yield from self._file_chunks()
            if not later:
                return
            # The writer had left this file before we read it: it will not grow.
            self.close()
            self._number, self._entry, self._offset = later[0], 0, 0

    def _file_chunks(self) -> Iterator[tuple[int, int, bytes]]:
        # Size before index: entries of bytes that are there are final, later ones may still be written over.
        size = os.fstat(self._data).st_size
        entries = _read_entries(self._index, self._entry)
        for position, (moment, offset, stream) in enumerate(entries):
            if offset >= size:
                return
            last = position + 1 == len(entries)
            end = size if last else min(entries[position + 1][1], size)
            start = max(offset, self._offset)
            if start >= end and stream & ~STREAM and not last:
                yield moment, stream, b""
            while start < end:
                data = os.pread(self._data, min(CHUNK, end - start), start)
                if not data:
                    return
                start += len(data)
                self._offset = start
                yield moment, stream, data
            if not last and end == entries[position + 1][1]:
                self._entry += 1


def _read_entries(index: int, first: int) -> list[tuple[int, int, int]]:
    parts = []
    position = first * ENTRY.size
    while part := os.pread(index, 1 << 16, position):
        parts.append(part)
        position += len(part)
    raw = b"".join(parts)
    return list(ENTRY.iter_unpack(raw[: len(raw) // ENTRY.size * ENTRY.size]))


class LineAssembler:
    """Puts chunks of two streams together to whole lines, each with the time of its first byte."""

    def __init__(self, skip: set[int] | None = None) -> None:
        """`skip`: streams whose first line has lost its beginning."""
        self._parts: dict[int, tuple[int, list[bytes]]] = {}
        self._skip = skip or set()
        self._seen = False

    def feed(self, moment: int, stream: int, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        if stream & BEGINS:
            yield from self.rest()
            self._skip.clear()
            return
        if stream & CONTINUES:
            if not self._seen:
                self._skip.add(stream & STREAM)  # the line's beginning was rotated away
            return
        self._seen = True
        if stream in self._skip:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return
            self._skip.discard(stream)
            if not data:
                return
        lines = data.split(b"\n")
        if stream in self._parts:
            started, parts = self._parts[stream]
            if len(lines) == 1:
                parts.append(lines[0])
                return
            del self._parts[stream]
            yield started, stream, b"".join(parts) + lines[0]
            del lines[0]
        tail = lines.pop()
        for line in lines:
            yield moment, stream, line
        if tail:
            self._parts[stream] = (moment, [tail])

    def rest(self) -> Iterator[tuple[int, int, bytes]]:
        """What did not end in a newline."""
        for stream, (moment, parts) in sorted(self._parts.items()):
            yield moment, stream, b"".join(parts)
        self._parts.clear()


def read_log(
    directory: str,
    follow: bool = False,
    since: float = 0.0,
    until: float = 0.0,
    tail: int = -1,
    alive: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[float, int, bytes]]:
    """Whole lines as (time, 1 stdout | 2 stderr, bytes without newline), also across rotated files.

    `since`, `until`: seconds since the epoch, 0.0 for none. `tail`: only the last so many lines of what is there,
    -1 for all. `follow`: go on until `alive()` is false and all is read. A last line without newline comes at the end.
    """
    number, entry, cut = _tail_start(directory, tail)
    cursor = LogCursor(directory, number, entry)
    assembler = LineAssembler(cut)

    def wanted(lines: Iterator[tuple[int, int, bytes]]) -> Iterator[tuple[float, int, bytes]]:
        for moment, stream, line in lines:
            seconds = moment / 1e9
            if seconds >= since and (not until or seconds <= until):
                yield seconds, stream, line

    def present() -> Iterator[tuple[float, int, bytes]]:
        for moment, stream, data in cursor.chunks():
            yield from wanted(assembler.feed(moment, stream, data))

    try:
        if tail >= 0:
            lines = list(present())
            if not follow:
                lines += wanted(assembler.rest())
            yield from lines[len(lines) - tail :] if tail < len(lines) else lines
        else:
            yield from present()
        pause = SHORTEST_POLL
        while follow:
            # Asked before reading: what was written until the end is read after it.
            more = alive() and not (until and time.time() > until)
            moved = False
            for line in present():
                moved = True
                yield line
            if not more:
                break
            pause = SHORTEST_POLL if moved else min(pause * 1.5, LONGEST_POLL)
            time.sleep(pause)
        yield from wanted(assembler.rest())
    finally:
        cursor.close()


def _tail_start(directory: str, tail: int) -> tuple[int, int, set[int]]:
    """File and entry after which at least `tail` whole lines begin, and the streams that are mid-line there."""
    if tail < 0:
        return 0, 0, set()
    newlines = 0
    for number in reversed(numbers(directory)):
        try:
            data = os.open(f"{directory}/{number}.log", os.O_RDONLY | os.O_CLOEXEC)
            index = os.open(f"{directory}/{number}.idx", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            break
        try:
            end = os.fstat(data).st_size
            entries = _read_entries(index, 0)
            for position in range(len(entries) - 1, 0, -1):
                offset = entries[position][1]
                while offset < end:
                    part = os.pread(data, min(CHUNK, end - offset), offset)
                    if not part:
                        break
                    newlines += part.count(b"\n")
                    offset += len(part)
                end = min(end, entries[position][1])
                # Two more than asked: the first line of each stream may be cut at this entry, and is left out.
                if newlines >= tail + 2:
                    return number, position, _cut_streams(data, entries, position)
        finally:
            os.close(data)
            os.close(index)
    return 0, 0, set()


def _cut_streams(data: int, entries: list[tuple[int, int, int]], position: int) -> set[int]:
    """Streams whose last byte before entry `position` is not a newline."""
    cut = set()
    for stream in (STDOUT, STDERR):
        for before in range(position - 1, -1, -1):
            _, offset, kind = entries[before]
            end = entries[before + 1][1]
            if kind & BEGINS:
                break
            if kind & STREAM == stream and (end > offset or kind & CONTINUES):
                if end == offset or os.pread(data, 1, end - 1) != b"\n":
                    cut.add(stream)
                break
    return cut


def follow_raw(directory: str, alive: Callable[[], bool]) -> Iterator[bytes]:
    """All bytes in order, streams mixed as they came, until `alive()` is false: for terminals."""
    cursor = LogCursor(directory)
    pause = SHORTEST_POLL
    try:
        while True:
            more = alive()
            moved = False
            for _, _, data in cursor.chunks():
                if data:
                    moved = True
                    yield data
            if not more:
                return
            pause = SHORTEST_POLL if moved else min(pause * 1.5, LONGEST_POLL)
            time.sleep(pause)
    finally:
        cursor.close()
