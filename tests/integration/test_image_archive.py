"""Archives in every form they come in: which image is meant, digests verified, all of it or nothing."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from runtime.api import ArchiveRequest
from runtime.errors import CorruptContent, DiskFull, InvalidSpec, NotFound, Unsupported
from runtime.image.archive import archive_digest, load
from runtime.image.store import ImageRecord, ImageStore
from runtime.layout import Layout
from tests.support.images import _oci_members, digest, layer_tar, write_docker_save, write_oci_layout, write_oci_tar

pytestmark = pytest.mark.root
BASE, TOP = layer_tar({"hello": b"base", "gone": b""}), layer_tar({"hello": b"top", ".wh.gone": b""})
ONE = {"shop/web:1": [BASE, TOP]}
TWO = {"shop/web:1": [BASE, TOP], "shop/api:2": [BASE]}
Writer = Callable[[str, Mapping[str, Sequence[bytes]]], None]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Layout(str(tmp_path / "state"), str(tmp_path / "run")))


def take(store: ImageStore, path: Path, ref: str = "", name: str | None = "web") -> ImageRecord:
    return load(store, ArchiveRequest(str(path), ref), name, {"l": "1"}, {"d": 1}, lambda _line: None)


FORMS: dict[str, Writer] = {
    "oci directory": write_oci_layout,
    "oci directory, plain layers": lambda path, images: write_oci_layout(path, images, gzip_layers=False),
    "oci tar": write_oci_tar,
    "oci tar with ./": lambda path, images: write_oci_tar(path, images, prefix="./"),
    "oci tar.gz": lambda path, images: write_oci_tar(path, images, compress=True),
    "docker save": write_docker_save,
    "docker save with ./": lambda path, images: write_docker_save(path, images, prefix="./"),
    "docker save gz": lambda path, images: write_docker_save(path, images, compress=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_image(store: ImageStore, tmp_path: Path, form: str) -> None:
    FORMS[form](str(tmp_path / "archive"), ONE)
    record = take(store, tmp_path / "archive")
    assert record.layers == (digest(BASE), digest(TOP)) and record.names == ("web",)
    assert (record.labels, record.declared) == ({"l": "1"}, {"d": 1})
    assert record.config["config"]["Cmd"] == ["/hello"]
    top, base = store.lower_dirs(record)
    assert Path(top, "hello").read_bytes() == b"top" and Path(base, "hello").read_bytes() == b"base"
    assert store.verify(deep=True) == [] and os.listdir(store.layout.ingest) == []


@pytest.mark.parametrize("form", FORMS)
def test_of_several_images_ref_picks_one(store: ImageStore, tmp_path: Path, form: str) -> None:
    FORMS[form](str(tmp_path / "archive"), TWO)
    with pytest.raises(InvalidSpec) as caught:
        take(store, tmp_path / "archive")
    assert "shop/web:1" in str(caught.value) and "shop/api:2" in str(caught.value)
    for ref in ("shop/api:2", "2", "docker.io/shop/api:2"):
        assert take(store, tmp_path / "archive", ref).config["config"]["Labels"]["ref"] == "shop/api:2"
    with pytest.raises(InvalidSpec, match="no image"):
        take(store, tmp_path / "archive", "other")


@pytest.mark.parametrize("form", FORMS)
def test_a_second_load_reads_no_layer(
    store: ImageStore, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FORMS[form](str(tmp_path / "archive"), ONE)
    first = take(store, tmp_path / "archive")
    monkeypatch.setattr(store, "add_layer_from_tar", None)
    assert take(store, tmp_path / "archive") == first
    again = take(store, tmp_path / "archive", name="other")
    assert again.id == first.id and again.names == ("other",)


def test_an_archives_digest_follows_its_content(tmp_path: Path) -> None:
    write_oci_layout(str(tmp_path / "d"), ONE)
    write_oci_tar(str(tmp_path / "t"), ONE)
    before = archive_digest(str(tmp_path / "d")), archive_digest(str(tmp_path / "t"))
    assert before == (digest((tmp_path / "d/index.json").read_bytes()), digest((tmp_path / "t").read_bytes()))
    write_oci_layout(str(tmp_path / "d"), TWO)
    assert archive_digest(str(tmp_path / "d")) != before[0]


def members() -> dict[str, bytes]:
    return _oci_members(ONE, True)


def manifest_path() -> str:
    found = json.loads(members()["index.json"])["manifests"][0]["digest"]
    return f"blobs/sha256/{found[7:]}"


def manifest() -> dict[str, object]:
    document: dict[str, object] = json.loads(members()[manifest_path()])
    return document


@pytest.mark.parametrize("what", ["manifest", "config", "first layer", "last layer"])
@pytest.mark.parametrize("how", ["changed", "truncated", "exchanged"])
def test_damage_anywhere_is_found_and_nothing_is_kept(store: ImageStore, tmp_path: Path, what: str, how: str) -> None:
    document = json.loads(members()[manifest_path()])
    paths = {
        "manifest": manifest_path(),
        "config": "blobs/sha256/" + document["config"]["digest"][7:],
        "first layer": "blobs/sha256/" + document["layers"][0]["digest"][7:],
        "last layer": "blobs/sha256/" + document["layers"][1]["digest"][7:],
    }
    good = members()[paths[what]]
    other = members()[paths["first layer" if what == "last layer" else "last layer"]]
    bad = {"changed": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], "truncated": good[:-20], "exchanged": other}[how]
    write_oci_tar(str(tmp_path / "archive"), ONE, replace={paths[what]: bad})
    with pytest.raises(CorruptContent):
        take(store, tmp_path / "archive")
    assert store.list() == [] and os.listdir(store.layout.layers) == [] and os.listdir(store.layout.ingest) == []


def test_a_docker_layer_that_is_not_the_one_its_config_names_is_refused(store: ImageStore, tmp_path: Path) -> None:
    write_docker_save(str(tmp_path / "archive"), ONE, replace={f"{digest(TOP)[7:]}/layer.tar": BASE})
    with pytest.raises(CorruptContent, match="diff id"):
        take(store, tmp_path / "archive")
    assert os.listdir(store.layout.layers) == []


def test_a_failed_load_leaves_the_old_image_under_its_name(store: ImageStore, tmp_path: Path) -> None:
    write_oci_tar(str(tmp_path / "good"), {"web": [BASE]})
    old = take(store, tmp_path / "good")
    write_docker_save(str(tmp_path / "bad"), ONE, replace={f"{digest(TOP)[7:]}/layer.tar": b"no tar"})
    with pytest.raises(CorruptContent):
        take(store, tmp_path / "bad")
    assert store.get("web") == old and store.has_layer(digest(BASE)) and store.verify(deep=True) == []


@pytest.mark.parametrize(
    "replace",
    [
        {"index.json": b"{"},
        {"index.json": b"[]"},
        {"index.json": b'{"manifests": [{"digest": "sha256:../../etc/passwd", "size": 1}]}'},
        {"index.json": b'{"manifests": [3]}'},
        {"index.json": b'{"manifests": {}}'},
        {"index.json": b"[" * 100_000},
    ],
)
def test_a_malformed_index_is_refused(store: ImageStore, tmp_path: Path, replace: dict[str, bytes]) -> None:
    write_oci_tar(str(tmp_path / "archive"), ONE, replace=replace)
    with pytest.raises(CorruptContent):
        take(store, tmp_path / "archive")


@pytest.mark.parametrize(
    "entry",
    [
        '[{"Config": "../../../etc/passwd", "Layers": []}]',
        '[{"Config": "missing.json", "Layers": []}]',
        "[3]",
        "{}x",
        "3",
    ],
)
def test_a_malformed_docker_manifest_is_refused(store: ImageStore, tmp_path: Path, entry: str) -> None:
    write_docker_save(str(tmp_path / "archive"), ONE, replace={"manifest.json": entry.encode()})
    with pytest.raises(CorruptContent):
        take(store, tmp_path / "archive")


def with_manifest(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    document = manifest()
    change(document)
    raw = json.dumps(document).encode()
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": document["mediaType"], "digest": digest(raw), "size": len(raw)}],
    }
    blob = {f"blobs/sha256/{digest(raw)[7:]}": raw, "index.json": json.dumps(index).encode()}
    write_oci_tar(str(path), ONE, replace=blob)


def test_what_is_no_image_is_said_to_be_none(store: ImageStore, tmp_path: Path) -> None:
    def artifact(document: dict[str, object]) -> None:
        document["config"] = {**dict(document["config"]), "mediaType": "application/vnd.helm"}  # type: ignore[call-overload]

    with_manifest(tmp_path / "artifact", artifact)
    with pytest.raises(Unsupported, match="no image"):
        take(store, tmp_path / "artifact")

    def fewer(document: dict[str, object]) -> None:
        document["layers"] = []

    with_manifest(tmp_path / "fewer", fewer)
    with pytest.raises(CorruptContent, match="names 2 layers"):
        take(store, tmp_path / "fewer")


def test_what_is_no_archive_is_refused_with_a_hint(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    (tmp_path / "plain.tar").write_bytes(layer_tar({"a": b""}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.xz").write_bytes(b"\xfd7zXZ\0 and more")
    for name in ("text", "plain.tar", "empty"):
        with pytest.raises(InvalidSpec):
            take(store, tmp_path / name)
    with pytest.raises(CorruptContent, match="xz"):
        take(store, tmp_path / "x.xz")
    with pytest.raises(NotFound):
        take(store, tmp_path / "missing")
    assert store.list() == []


def test_a_full_disk_during_a_load_is_said_and_cleaned_up(tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "holdfast-test", disk], check=True)
    try:
        store = ImageStore(Layout(f"{disk}/state", str(tmp_path / "run")))
        write_oci_tar(str(tmp_path / "archive"), {"web": [BASE, layer_tar({"big": os.urandom(6 << 20)})]})
        with pytest.raises(DiskFull):
            take(store, tmp_path / "archive")
        assert os.listdir(store.layout.layers) == [] and os.listdir(store.layout.ingest) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_loaded(store: ImageStore, tmp_path: Path, form: str) -> None:
    write_oci_layout(str(tmp_path / "layout"), ONE)
    suffix = ":shop/web:1"
    target = f"{form}:{tmp_path}/out{suffix}"
    made = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/layout{suffix}", target],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert take(store, tmp_path / "out").layers == (digest(BASE), digest(TOP))


def test_a_known_archive_is_cheap(store: ImageStore, tmp_path: Path) -> None:
    write_oci_tar(str(tmp_path / "archive"), ONE)
    take(store, tmp_path / "archive")
    began = time.perf_counter()
    take(store, tmp_path / "archive")
    assert time.perf_counter() - began < 0.05
