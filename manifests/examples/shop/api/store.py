"""Just enough of the redis protocol for the shop."""

import os
import socket


class Store:
    def __init__(self, timeout=3.0):
        self._socket = socket.create_connection((os.environ.get("REDIS_HOST", "redis"), 6379), timeout)
        self._file = self._socket.makefile("rb")
        with open(os.environ["REDIS_PASSWORD_FILE"], encoding="utf-8") as file:
            self.call("AUTH", file.read().strip())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        self._socket.close()

    def call(self, *words):
        parts = [str(word).encode() for word in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(message)
        return self._read()

    def _read(self):
        line = self._file.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._file.read(size + 2)[:-2].decode()
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        raise OSError(line.decode(errors="replace") or "redis closed the connection")
