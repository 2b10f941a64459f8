"""Secrets of every source, followed through everything that a user can ask for and every file that is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.holdfast import Holdfast, holdfast_root

pytestmark = [pytest.mark.root]

SECRETS = {"file": "f1le-s3cret-4711", "inline": "inl1ne-s3cret-4712", "variable": "var-s3cret-4713"}
MANIFESTS = f"""
apiVersion: holdfast/v1
kind: Stack
metadata: {{name: quiet}}
---
apiVersion: holdfast/v1
kind: Secret
metadata: {{name: from-file}}
spec: {{file: ./password}}
---
apiVersion: holdfast/v1
kind: Secret
metadata: {{name: from-manifest}}
spec: {{content: {SECRETS["inline"]}}}
---
apiVersion: holdfast/v1
kind: Secret
metadata: {{name: from-variable}}
spec: {{environment: THE_SECRET}}
---
apiVersion: holdfast/v1
kind: Service
metadata: {{name: web}}
spec:
  image: busybox
  command: [sh, -c, "cat /run/secrets/* | wc -c; exec sleep 600"]
  network_mode: none
  init: true
  secrets: [from-file, from-manifest, from-variable]
"""


@pytest.fixture
def holdfast(tmp_path: Path) -> Iterator[Holdfast]:
    with holdfast_root(tmp_path) as made:
        made.environment["THE_SECRET"] = SECRETS["variable"]
        made.directory.joinpath("password").write_text(SECRETS["file"])
        yield made


def revealed(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [name for name, secret in SECRETS.items() if secret.encode() in data]


def test_no_answer_no_process_and_no_file_tells_a_secret(holdfast: Holdfast) -> None:
    holdfast.write(MANIFESTS, "stack.yaml")
    source = ("-f", str(holdfast.directory / "stack.yaml"))
    holdfast.run("apply", *source, "--yes")
    name = holdfast.containers()[0]["name"]
    inside = holdfast.run("container", "exec", name, "sh", "-c", "cat /run/secrets/*").stdout
    assert sorted(revealed(inside)) == sorted(SECRETS), "the container has them"
    holdfast.directory.joinpath("password").write_text(SECRETS["file"] + "-changed")
    for command in (
        ("plan", *source), ("plan", *source, "--json"), ("status",), ("status", "--json"), ("history",),
        ("history", "--json"), ("events",), ("events", "--json"), ("graph", *source), ("explain", "service/web"),
        ("validate", *source), ("container", "inspect", name), ("container", "ls", "--json"),
        ("system", "info", "--json"), ("container", "logs", name), ("apply", *source, "--yes"),
    ):  # fmt: skip
        done = holdfast.run(*command, code=None)
        assert "Usage:" not in done.stderr, command
        assert revealed(done.stdout + done.stderr) == [], command
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            assert revealed(Path("/proc", process, "cmdline").read_bytes()) == [], process
        except OSError:
            continue
    for top in (holdfast.layout.root, os.path.realpath(holdfast.layout.run)):
        for folder, _, files in os.walk(top):
            for file in files:
                path = Path(folder, file)
                if path.is_fifo() or path.is_socket() or path.is_symlink() or not path.is_file():
                    continue
                if revealed(path.read_bytes()):
                    assert "/secrets/" in str(path), path
                    assert path.parent.stat().st_mode & 0o077 == 0, path
