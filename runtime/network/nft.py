"""Runs nftables transactions: in-process where libnftables loads (0.1 ms), else through the `nft` command."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

from runtime.errors import EngineError, Unsupported

JSON_OUTPUT = 1 << 4
NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETGEN = 16


class NftError(EngineError):
    """A transaction was refused as a whole; nothing of it happened."""


class Nft:
    """Bound to the network namespace of the thread that uses it first."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._library: Any = None
        self._context: Any = None
        self._loaded = False

    def run(self, script: str) -> None:
        """Apply `script` as one transaction. Raises NftError."""
        if script:
            self._run(script, json_output=False)

    def read(self, command: str) -> Any:
        """The value that a `list …` command prints as JSON; None when it fails, as for what does not exist."""
        try:
            text = self._run(command, json_output=True)
        except (NftError, Unsupported):
            # Whoever writes next says what is missing; a look must not fail for it.
            return None
        return json.loads(text) if text.strip() else None

    def is_installed(self) -> bool:
        """The library or the command is there."""
        import shutil

        with self._mutex:
            if not self._loaded:
                self._load()
            return self._library is not None or shutil.which("nft") is not None

    def generation(self) -> int:
        """A number that moves with every change of any table in this namespace."""
        try:
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        except OSError:
            return -1  # a kernel without netfilter
        with link:
            link.settimeout(5.0)
            kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN
            link.send(struct.pack("=IHHIIBBH", 20, kind, 1, 1, 0, 0, 0, 0))
            answer = link.recv(8192)
        if struct.unpack_from("=H", answer, 4)[0] == 2:
            return -1
        return int(struct.unpack_from("!I", answer, 24)[0])

    def _run(self, script: str, json_output: bool) -> str:
        with self._mutex:
            if not self._loaded:
                self._load()
            if self._library is None:
                return _command(script, json_output)
            library, context = self._library, self._context
            library.nft_ctx_output_set_flags(context, JSON_OUTPUT if json_output else 0)
            code = library.nft_run_cmd_from_buffer(context, script.encode())
            # Reading a buffer empties it, so both are read each time.
            output = library.nft_ctx_get_output_buffer(context) or b""
            error = library.nft_ctx_get_error_buffer(context) or b""
        if code:
            raise _refused(error.decode(errors="replace"))
        return str(output.decode())

    def _load(self) -> None:
        import ctypes

        self._loaded = True
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError:
            return
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_char_p
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        context = library.nft_ctx_new(0)
        if not context or library.nft_ctx_buffer_output(context) or library.nft_ctx_buffer_error(context):
            return
        self._library, self._context = library, context


def _command(script: str, json_output: bool) -> str:
    import subprocess

    try:
        done = subprocess.run(
            # Together with -j, the input of -f would have to be JSON.
            ["nft", "-j", *script.split()] if json_output else ["nft", "-f", "-"],
            input=script.encode(), capture_output=True, check=False, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unsupported(
            "cannot write firewall rules: neither libnftables nor nft is there", "install nftables"
        ) from None
    if done.returncode:
        raise _refused(done.stderr.decode(errors="replace"))
    return done.stdout.decode()


def _refused(text: str) -> EngineError:
    line = next((line for line in text.splitlines() if "rror" in line), text.strip()[:300])
    if "Operation not permitted" in text:
        return Unsupported("cannot write firewall rules: not permitted", "Holdfast needs root for networks")
    if "Protocol not supported" in text or "Unable to initialize Netlink" in text:
        return Unsupported("cannot write firewall rules: this kernel has no nf_tables", "load the module nf_tables")
    return NftError(f"cannot write firewall rules: {line}")
