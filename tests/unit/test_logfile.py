"""The log's writer and reader on real pipes and files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.supervise import logfile
from runtime.supervise.logfile import LineAssembler, LogWriter, follow_raw, read_log


class Pipe:
    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def put(self, data: bytes) -> None:
        assert os.write(self.fd, data) == len(data)


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[tuple[Pipe, Pipe]]:
    both = Pipe(tmp_path / "out"), Pipe(tmp_path / "err")
    yield both
    for pipe in both:
        os.close(pipe.fd)


def texts(directory: Path, **options: object) -> list[tuple[int, bytes]]:
    return [(stream, line) for _, stream, line in read_log(str(directory), **options)]  # type: ignore[arg-type]


def test_lines_keep_their_stream_and_are_whole_though_written_in_pieces(
    tmp_path: Path, pipes: tuple[Pipe, Pipe]
) -> None:
    out, err = pipes
    writer = LogWriter(str(tmp_path / "log"))
    for pipe, stream, data in (
        (out, 1, b"first ha"),
        (err, 2, b"bad\nworse"),
        (out, 1, b"lf\nsecond\n"),
        (err, 2, b"\n"),
    ):
        pipe.put(data)
        assert writer.take(pipe.fd, stream)
    assert not writer.take(out.fd, 1)
    writer.close()
    assert texts(tmp_path / "log") == [(2, b"bad"), (1, b"first half"), (1, b"second"), (2, b"worse")]


def test_a_last_line_without_newline_is_read_and_does_not_join_the_next_run(
    tmp_path: Path, pipes: tuple[Pipe, Pipe]
) -> None:
    out, _ = pipes
    for text in (b"one\ntorn", b"two\n"):
        writer = LogWriter(str(tmp_path / "log"))
        writer.begin()
        out.put(text)
        writer.take(out.fd, 1)
        writer.close()
    assert texts(tmp_path / "log") == [(1, b"one"), (1, b"torn"), (1, b"two")]


def test_a_log_is_made_for_the_first_bytes_and_a_run_without_any_leaves_no_trace(
    tmp_path: Path, pipes: tuple[Pipe, Pipe]
) -> None:
    out, _ = pipes
    directory = tmp_path / "log"
    silent = LogWriter(str(directory))
    silent.begin()
    assert not silent.take(out.fd, 1)
    silent.close()
    assert not directory.exists()
    assert texts(directory) == []
    writer = LogWriter(str(directory))
    out.put(b"said\n")
    assert writer.take(out.fd, 1)
    assert texts(directory) == [(1, b"said")]
    writer.close()


def test_where_no_log_can_be_made_the_pipe_is_emptied_all_the_same(tmp_path: Path, pipes: tuple[Pipe, Pipe]) -> None:
    out, _ = pipes
    (tmp_path / "file").write_text("")
    writer = LogWriter(str(tmp_path / "file" / "log"))
    out.put(b"said\n")
    assert writer.take(out.fd, 1)
    assert not writer.take(out.fd, 1)
    writer.write(b"typed\n", 1)
    assert writer.lost == len(b"said\ntyped\n")
    writer.close()


def test_rotation_keeps_the_newest_files_and_no_half_line(tmp_path: Path, pipes: tuple[Pipe, Pipe]) -> None:
    out, _ = pipes
    directory = tmp_path / "log"
    writer = LogWriter(str(directory), max_size=4096, max_files=3)
    for index in range(500):
        # Half a line at a time, so that rotation cuts lines in two.
        for part in (b"line %05d " % index, b"x" * 40 + b"\n"):
            out.put(part)
            writer.take(out.fd, 1)
    writer.close()
    lines = texts(directory)
    assert len(logfile.numbers(str(directory))) == 3
    assert lines[-1] == (1, b"line 00499 " + b"x" * 40)
    first = int(lines[0][1].split()[1])
    assert [line for _, line in lines] == [b"line %05d " % index + b"x" * 40 for index in range(first, 500)]
    assert 0 < first < 400


@pytest.mark.parametrize("tail", [0, 1, 3, 10, 50])
def test_tail_gives_exactly_the_last_lines_of_both_streams(tmp_path: Path, pipes: tuple[Pipe, Pipe], tail: int) -> None:
    out, err = pipes
    writer = LogWriter(str(tmp_path / "log"), max_size=4096, max_files=5)
    for index in range(60):
        pipe, stream = (err, 2) if index % 7 == 0 else (out, 1)
        pipe.put(b"%d " % index + b"y" * 90 + b"\n")
        writer.take(pipe.fd, stream)
    writer.close()
    everything = texts(tmp_path / "log")
    assert len(everything) == 60
    assert texts(tmp_path / "log", tail=tail) == everything[60 - tail :]


def test_since_and_until_choose_by_time(tmp_path: Path, pipes: tuple[Pipe, Pipe]) -> None:
    out, _ = pipes
    writer = LogWriter(str(tmp_path / "log"))
    moments = []
    for index in range(3):
        out.put(b"%d\n" % index)
        writer.take(out.fd, 1)
        moments.append(time.time())
        time.sleep(0.005)
    writer.close()
    assert [line for _, line in texts(tmp_path / "log", since=moments[0])] == [b"1", b"2"]
    assert [line for _, line in texts(tmp_path / "log", until=moments[1])] == [b"0", b"1"]


def test_follow_reads_what_comes_later_and_ends_with_the_container(tmp_path: Path, pipes: tuple[Pipe, Pipe]) -> None:
    out, _ = pipes
    writer = LogWriter(str(tmp_path / "log"), max_size=4096)
    rounds = iter(range(100))

    def alive() -> bool:
        index = next(rounds)
        if index < 90:
            out.put(b"%d " % index + b"z" * 100 + b"\n")
            writer.take(out.fd, 1)
        return index < 95

    lines = texts(tmp_path / "log", follow=True, alive=alive)
    assert [int(line.split()[0]) for _, line in lines] == list(range(90))
    assert b"".join(follow_raw(str(tmp_path / "log"), lambda: False)).count(b"\n") == 90
    writer.close()


def test_a_reader_never_credits_bytes_to_a_stream_that_only_announced_some(
    tmp_path: Path, pipes: tuple[Pipe, Pipe]
) -> None:
    out, err = pipes
    writer = LogWriter(str(tmp_path / "log"))
    out.put(b"a\n")
    writer.take(out.fd, 1)
    writer._last_time = 0  # as if a moment had passed: the empty pipe announces itself with an entry
    assert not writer.take(out.fd, 1)
    cursor = logfile.LogCursor(str(tmp_path / "log"))
    assert [(stream, data) for _, stream, data in cursor.chunks()] == [(1, b"a\n")]
    err.put(b"b\n")
    writer.take(err.fd, 2)
    assert [(stream, data) for _, stream, data in cursor.chunks()] == [(2, b"b\n")]
    cursor.close()
    writer.close()


def test_a_writer_that_takes_over_continues_where_the_dead_one_stopped(
    tmp_path: Path, pipes: tuple[Pipe, Pipe]
) -> None:
    out, _ = pipes
    for text in (b"hal", b"ves\n"):
        out.put(text)
        LogWriter(str(tmp_path / "log")).take(out.fd, 1)  # never closed: killed
    assert texts(tmp_path / "log") == [(1, b"halves")]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=6).map(lambda b: b.replace(b"x", b"\n")))))
def test_assembled_lines_are_each_stream_split_at_newlines(chunks: list[tuple[int, bytes]]) -> None:
    assembler = LineAssembler()
    lines: dict[int, list[bytes]] = {1: [], 2: []}
    for stream, data in chunks:
        for _, which, line in assembler.feed(0, stream, data):
            lines[which].append(line)
    for _, which, line in assembler.rest():
        lines[which].append(line)
    for stream in (1, 2):
        whole = b"".join(data for which, data in chunks if which == stream)
        expected = whole.split(b"\n")
        assert lines[stream] == (expected if expected[-1] else expected[:-1])
