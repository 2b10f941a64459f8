"""Passes questions about the world outside to upstream resolvers, many at once, never waiting for one of them."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable

PATIENCE = 1.5
"""Seconds that one upstream gets for an answer before the next is asked."""
ROUNDS = 2
MAX_PENDING = 1024

Answer = Callable[[bytes | None], None]


class Question:
    """One client's question on its way: which upstream is being asked, over what, until when."""

    __slots__ = ("answer", "buffer", "by_tcp", "data", "deadline", "index", "output", "socket", "upstreams")

    def __init__(self, data: bytes, upstreams: list[str], by_tcp: bool, answer: Answer) -> None:
        self.data = data
        self.upstreams = upstreams * ROUNDS
        self.by_tcp = by_tcp
        self.answer = answer
        self.index = -1
        self.deadline = 0.0
        self.socket: socket.socket | None = None
        self.buffer = b""
        self.output = b""


class Forwarder:
    """Each attempt has a socket of its own, connected to one upstream: a random port, and nobody else's packets."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.pending: set[Question] = set()

    def ask(self, data: bytes, upstreams: list[str], by_tcp: bool, answer: Answer) -> None:
        """`answer` gets the upstream's reply with the client's id, or None when nobody replied."""
        if not upstreams or len(self.pending) >= MAX_PENDING:
            answer(None)
            return
        question = Question(data, upstreams, by_tcp, answer)
        self.pending.add(question)
        self._next(question)

    def next_deadline(self) -> float | None:
        return min((question.deadline for question in self.pending), default=None)

    def expire(self) -> None:
        now = time.monotonic()
        for question in [one for one in self.pending if one.deadline <= now]:
            self._next(question)

    def ready(self, question: Question, mask: int) -> None:
        """An upstream's socket is readable or writable."""
        try:
            if question.by_tcp:
                self._stream_ready(question, mask)
            else:
                self._datagram_ready(question)
        except OSError:
            self._next(question)

    def _next(self, question: Question) -> None:
        self._drop_socket(question)
        while question.index + 1 < len(question.upstreams):
            question.index += 1
            question.deadline = time.monotonic() + PATIENCE
            try:
                self._send(question)
            except (OSError, ValueError):
                self._drop_socket(question)
                continue
            return
        self._finish(question, None)

    def _send(self, question: Question) -> None:
        upstream = question.upstreams[question.index]
        family = socket.AF_INET6 if ":" in upstream else socket.AF_INET
        kind = socket.SOCK_STREAM if question.by_tcp else socket.SOCK_DGRAM
        one = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        question.socket = one
        # The id is made new for each attempt, so that nobody who saw the client's can forge an answer.
        packet = os.urandom(2) + question.data[2:]
        question.output = struct.pack("!H", len(packet)) + packet if question.by_tcp else packet
        question.buffer = b""
        try:
            one.connect((upstream.partition("%")[0], 53))
        except BlockingIOError:
            pass
        if question.by_tcp:
            self.selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, question)
        else:
            one.send(packet)
            self.selector.register(one, selectors.EVENT_READ, question)

    def _datagram_ready(self, question: Question) -> None:
        assert question.socket is not None
        reply = question.socket.recv(65535)
        if not _answers(reply, question.output, question.data):
            return
        if reply[2] & 0x02:
            # Truncated: ask the same one again over TCP, and let the caller cut the answer to the client's measure.
            question.by_tcp = True
            question.index -= 1
            self._next(question)
            return
        self._finish(question, reply)

    def _stream_ready(self, question: Question, mask: int) -> None:
        one = question.socket
        assert one is not None
        if mask & selectors.EVENT_WRITE and question.output:
            error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect")
            sent = one.send(question.output)
            question.buffer, question.output = b"", question.output[sent:]
            if not question.output:
                self.selector.modify(one, selectors.EVENT_READ, question)
        if not mask & selectors.EVENT_READ:
            return
        data = one.recv(65535)
        if not data:
            raise ConnectionResetError
        question.buffer += data
        if len(question.buffer) >= 2:
            length = struct.unpack_from("!H", question.buffer)[0]
            if len(question.buffer) >= length + 2:
                reply = question.buffer[2 : length + 2]
                if not _answers(reply, reply[:2], question.data):
                    raise ConnectionResetError
                self._finish(question, reply)

    def _finish(self, question: Question, reply: bytes | None) -> None:
        self._drop_socket(question)
        self.pending.discard(question)
        question.answer(None if reply is None else question.data[:2] + reply[2:])

    def _drop_socket(self, question: Question) -> None:
        if question.socket is not None:
            try:
                self.selector.unregister(question.socket)
            except (KeyError, ValueError):
                pass
            question.socket.close()
            question.socket = None


def _answers(reply: bytes, sent: bytes, question: bytes) -> bool:
    """A reply, to this id, to this question (names compare without case)."""
    if len(reply) < 12 or not reply[2] & 0x80 or reply[:2] != sent[:2]:
        return False
    end = question_end(question)
    if reply[4:6] == b"\0\0":
        return True  # Some servers leave the question out of a refusal.
    return end > 0 and reply[12:end].lower() == question[12:end].lower()


def question_end(packet: bytes) -> int:
    """Offset behind the first question; 0 when it is not whole. Names in a question are never compressed."""
    offset = 12
    while offset < len(packet):
        length = packet[offset]
        if length & 0xC0:
            return 0
        offset += 1 + length
        if not length:
            return offset + 4 if offset + 4 <= len(packet) else 0
    return 0
