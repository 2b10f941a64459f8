"""Layers keep what they are given: pack, unpack and pack again; and the merged view equals the kernel's."""

import io
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.image.extract import extract
from runtime.image.layer import layer_digest, write_layer_tar
from runtime.snapshot import overlay

pytestmark = pytest.mark.root
COMMON = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

NAMES = st.sampled_from(["a", "b", "c", "ü x", "l" * 120])
TARGETS = st.sampled_from(["a", "b/c", "/a", "../b", "/c/a/b", "../../../a", ".", "/", "nowhere", "c/", "a/.."])


def nodes(depth: int) -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.tuples(
            st.just("file"), st.binary(max_size=2000), st.sampled_from([0o644, 0o4755, 0o600]), st.integers(0, 70000)
        ),
        st.tuples(st.just("link"), TARGETS),
        st.tuples(st.just("hard"), NAMES),
        st.tuples(st.just("whiteout")),
        st.tuples(st.just("fifo")),
    )
    if depth == 0:
        return leaves
    return st.one_of(
        leaves,
        st.tuples(
            st.just("dir"), st.dictionaries(NAMES, nodes(depth - 1), max_size=4), st.booleans(), st.integers(0, 2**33)
        ),
    )


TREES = st.dictionaries(NAMES, nodes(2), max_size=5)


def build(folder: str, tree: dict[str, Any], top: str) -> None:
    for name, node in tree.items():
        path = f"{folder}/{name}"
        if node[0] == "file":
            with open(path, "wb") as file:
                file.write(node[1])
            os.setxattr(path, "user.note", b"n\0te")
            os.chown(path, node[3], 7)
            os.chmod(path, node[2])
        elif node[0] == "link":
            os.symlink(node[1], path)
        elif node[0] == "hard" and os.path.isfile(f"{top}/{node[1]}") and not os.path.islink(f"{top}/{node[1]}"):
            os.link(f"{top}/{node[1]}", path)
        elif node[0] == "whiteout":
            os.mknod(path, stat.S_IFCHR, 0)
        elif node[0] == "fifo":
            os.mkfifo(path)
        elif node[0] == "dir":
            os.mkdir(path)
            build(path, node[1], top)
            if node[2]:
                os.setxattr(path, overlay.OPAQUE, b"y")
            os.utime(path, (node[3], node[3]))


@COMMON
@given(tree=TREES)
def test_a_layer_packed_unpacked_and_packed_again_is_the_same(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = f"{folder}/first", f"{folder}/second"
        os.mkdir(first)
        os.mkdir(second)
        build(first, tree, first)
        buffer = io.BytesIO()
        written = write_layer_tar(first, buffer)
        assert written == layer_digest(first) == (written[0], len(buffer.getvalue()))
        extract(iter([buffer.getvalue()]), second)
        assert layer_digest(second) == written
        listed = subprocess.run(["tar", "-tf", "-"], input=buffer.getvalue(), capture_output=True, check=False)
        assert listed.returncode == 0


@COMMON
@given(tree=TREES)
def test_a_copied_tree_is_the_same_layer(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/first")
        build(f"{folder}/first", tree, f"{folder}/first")
        overlay.copy_tree(f"{folder}/first", f"{folder}/second")
        assert layer_digest(f"{folder}/first") == layer_digest(f"{folder}/second")


PATHS = st.lists(st.sampled_from(["a", "b", "c", "ü x", "..", ".", ""]), max_size=5).map("/".join)

LOOK = r"""
import os, sys, json
os.chroot(sys.argv[1]); os.chdir("/")
out = []
for path in json.loads(sys.argv[2]):
    try:
        info = os.stat("/" + path)
        names = None
        if os.path.isdir("/" + path):
            # in a directory of one layer alone the kernel lists whiteouts, though nobody can open them
            names = sorted(n for n in os.listdir("/" + path) if os.path.lexists("/" + path + "/" + n))
        out.append([info.st_mode, info.st_size if names is None else -1, info.st_uid, names])
    except OSError:
        out.append(None)
print(json.dumps(out))
"""


def seen_by_the_kernel(layers: list[str], scratch: str, paths: list[str]) -> list[Any]:
    import json

    script = 'mount -t overlay holdfast-test -o "lowerdir=$1" "$2" && exec /usr/bin/env python3 -c "$3" "$2" "$4"'
    merged = f"{scratch}/merged"
    os.makedirs(merged, exist_ok=True)
    os.makedirs(f"{scratch}/none", exist_ok=True)
    lowers = ":".join([*layers, f"{scratch}/none"])
    made = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", lowers, merged, LOOK, json.dumps(paths)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seen: list[Any] = json.loads(made.stdout)
    return seen


@settings(COMMON, max_examples=60)
@given(trees=st.lists(TREES, min_size=1, max_size=3), paths=st.lists(PATHS, min_size=5, max_size=20))
def test_the_merged_view_is_the_kernels(trees: list[dict[str, Any]], paths: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as scratch:
        layers = []
        for number, tree in enumerate(trees):
            layers.append(f"{scratch}/{number}")
            os.mkdir(layers[-1])
            build(layers[-1], tree, layers[-1])
        for path, expected in zip(paths, seen_by_the_kernel(layers, scratch, paths), strict=True):
            real = overlay.path_in_layers(layers[1:], layers[0], path)
            if expected is None:
                assert real is None, path
                continue
            assert real is not None, path
            info = os.lstat(real)
            assert real == scratch or real.startswith(f"{scratch}/")
            assert [info.st_mode, info.st_uid] == [expected[0], expected[2]], path
            if expected[3] is None:
                assert info.st_size == expected[1]
            else:
                assert overlay.list_in_layers(layers, None, path) == expected[3]


@settings(COMMON, max_examples=30)
@given(trees=st.lists(TREES, min_size=1, max_size=3))
def test_content_copied_from_layers_is_what_the_merged_view_shows(trees: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as scratch:
        layers = []
        for number, tree in enumerate(trees):
            layers.append(f"{scratch}/{number}")
            os.mkdir(layers[-1])
            build(layers[-1], tree, layers[-1])
        assert overlay.copy_from_layers(layers, None, "/", f"{scratch}/copy")
        for folder, folders, files in os.walk(f"{scratch}/copy"):
            inside = os.path.relpath(folder, f"{scratch}/copy")
            assert sorted(folders + files) == overlay.list_in_layers(layers, None, inside)
            for name in files:
                info = os.lstat(f"{folder}/{name}")
                assert not overlay.is_whiteout(info)
                if stat.S_ISREG(info.st_mode):
                    assert Path(folder, name).read_bytes() == overlay.read_in_layers(layers, None, f"{inside}/{name}")
