"""The image store for real: ownership by name, sharing, collection, damage, full disks, kill -9 at any instant."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import Conflict, CorruptContent, DiskFull, InvalidSpec, NotFound
from runtime.image.store import ImageStore
from runtime.layout import Layout
from tests.support.images import busybox_image, digest, image_config, layer_tar

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Layout(str(tmp_path / "state"), str(tmp_path / "run")))


def fresh(store: ImageStore) -> ImageStore:
    """What another process sees."""
    return ImageStore(store.layout)


def layer(store: ImageStore, *names: str) -> str:
    return store.add_layer_from_tar(io.BytesIO(layer_tar({name: name.encode() for name in names})))


def test_an_image_is_found_by_name_by_id_and_by_the_start_of_its_id(store: ImageStore) -> None:
    made = busybox_image(store, "shop/web:1", Env=["A=b"])
    for key in ("shop/web:1", "docker.io/shop/web:1", made.id, made.id[7:], made.id[7:19]):
        found = fresh(store).get(key)
        assert found is not None and found.id == made.id and found.names == ("shop/web:1",)
        assert found.config["config"]["Env"] == ["A=b"]
    assert store.get("shop/web") is None and store.get("0" * 64) is None
    lowers = fresh(store).lower_dirs(made.id)
    assert os.path.exists(f"{lowers[0]}/bin/sh") and lowers == store.lower_dirs(made)


def test_reading_for_a_start_takes_less_than_half_a_millisecond(store: ImageStore) -> None:
    for number in range(30):
        busybox_image(store, f"image-{number}", Env=[f"N={number}"])
    best = 1.0
    for _ in range(20):
        cold = fresh(store)
        began = time.perf_counter()
        record = cold.get("image-7")
        assert record is not None
        cold.lower_dirs(cold.get(record.id) or record)
        best = min(best, time.perf_counter() - began)
    assert best < 0.0005


def test_a_start_imports_nothing_heavy() -> None:
    code = "import sys, runtime.image.store, runtime.snapshot.overlay; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"isal", "backports.zstd", "tarfile", "subprocess", "ctypes"} & set(loaded)


def test_the_first_layer_is_the_lowest(store: ImageStore) -> None:
    layers = [layer(store, "a"), layer(store, "b")]
    record = store.commit(image_config(), layers, "two")
    assert store.lower_dirs(record) == [store.layer_dir(layers[1]), store.layer_dir(layers[0])]


def test_a_layer_that_empties_the_root_hides_all_below_it(store: ImageStore) -> None:
    layers = [layer(store, "a"), layer(store, ".wh..wh..opq", "b"), layer(store, "c")]
    assert store.lower_dirs(store.commit(image_config(), layers)) == [
        store.layer_dir(layers[2]), store.layer_dir(layers[1]),
    ]  # fmt: skip


def test_labels_and_declared_belong_to_the_name(store: ImageStore) -> None:
    one = layer(store, "a")
    store.commit(image_config(), [one], "mine", {"stack": "s"}, {"x": 1})
    store.commit(image_config(), [one], "yours", {"stack": "t"})
    records = fresh(store).list()
    assert [(r.names, r.labels, r.declared) for r in records] == [
        (("mine",), {"stack": "s"}, {"x": 1}),
        (("yours",), {"stack": "t"}, None),
    ]
    assert records[0].id == records[1].id
    by_id = store.get(records[0].id)
    assert by_id is not None and by_id.names == ("mine", "yours")
    info = store.info(records[0])
    assert (info.labels, info.declared, info.layers) == ({"stack": "s"}, {"x": 1}, (one,))


def test_a_name_moves_and_the_old_image_stays_until_collected(store: ImageStore) -> None:
    old = store.commit(image_config(), [layer(store, "old")], "web")
    new = store.commit(image_config(), [layer(store, "new")], "web")
    assert store.get("web") == new and [r.names for r in store.list()] == [("web",), ()]
    assert store.collect([old.id]) == 0 and store.get(old.id) is not None
    assert store.collect([]) > 0 and store.get(old.id) is None
    assert os.listdir(store.layout.layers) == [new.layers[0][7:]] and store.verify(deep=True) == []


def test_tag_and_remove(store: ImageStore) -> None:
    made = busybox_image(store, "one")
    store.tag("one", "two")
    store.tag(made.id, "three")
    with pytest.raises(NotFound):
        store.tag("none", "four")
    with pytest.raises(Conflict, match="names"):
        store.remove(made.id)
    store.remove("one")
    store.remove("one")
    store.remove("two", in_use=[made.id])  # not the last name
    with pytest.raises(Conflict, match="container"):
        store.remove("three", in_use=[made.id])
    store.remove("three", force=True, in_use=[made.id])
    assert store.list()[0].names == () and store.lower_dirs(made.id)
    store.remove(made.id)
    assert store.list() == [] and os.listdir(store.layout.layers) == [] and os.listdir(store.layout.blobs) == []


def test_a_shared_layer_goes_with_its_last_image(store: ImageStore) -> None:
    base, top = layer(store, "base"), layer(store, "top")
    store.commit(image_config(), [base], "a")
    store.commit(image_config(), [base, top], "b")
    usage = store.usage()
    images = {image["names"][0]: image for image in usage["images"]}
    assert images["a"]["unique"] < 1000 and images["b"]["shared"] == images["a"]["shared"] == store.layer_size(base)
    store.remove("b")
    assert store.has_layer(base) and not store.has_layer(top)


def test_layers_being_made_into_an_image_are_not_collected(store: ImageStore) -> None:
    with store.lease():
        made = layer(store, "new")
        assert fresh(store).collect([]) == 0 and store.has_layer(made)
        store.commit(image_config(), [made], "web")
    assert fresh(store).collect([]) == 0 and store.has_layer(made)


def test_an_image_of_a_missing_layer_is_refused(store: ImageStore) -> None:
    with pytest.raises(NotFound, match="layer"):
        store.commit(image_config(), [digest(b"none")], "web")
    with pytest.raises(CorruptContent):
        store.commit(image_config(), ["../../etc"], "web")
    with pytest.raises(InvalidSpec):
        store.commit(image_config(), [], "../evil")
    assert store.list() == []


def test_a_directory_becomes_a_layer_by_rename_and_gives_one_digest(store: ImageStore, tmp_path: Path) -> None:
    ids, inodes = [], []
    for number in range(2):
        source = tmp_path / f"upper{number}"
        (source / "d").mkdir(parents=True)
        (source / "d/f").write_text("content")
        os.link(source / "d/f", source / "d/g")
        os.mknod(source / "gone", 0o020000, 0)
        os.setxattr(source / "d", "trusted.overlay.opaque", b"y")
        for path in (source / "d/f", source / "d"):
            os.utime(path, (5, 5.5 + number / 10))
        os.chmod(source, 0o700)
        inodes.append(os.stat(source / "d/f").st_ino)
        ids.append(store.add_layer_from_dir(str(source)))
        assert not source.exists()
    assert ids[0] == ids[1]
    folder = store.layer_dir(ids[0])
    assert os.stat(f"{folder}/d/f").st_ino == inodes[0] and os.stat(folder).st_mode & 0o777 == 0o755
    assert os.stat(os.path.dirname(folder)).st_mode & 0o777 == 0o700
    assert os.listdir(store.layout.ingest) == [] and os.listdir(store.layout.trash) == []


def test_damage_is_found_and_named(store: ImageStore) -> None:
    record = busybox_image(store)
    blob = store.blobs.path(record.id)
    with open(blob, "r+b") as file:
        file.seek(5)
        file.write(b"X")
    with pytest.raises(CorruptContent, match="does not match its digest"):
        fresh(store).get("busybox")
    assert fresh(store).list() == [] and record.id in store.verify()[0]
    again = busybox_image(fresh(store))  # making it again heals the blob
    assert again.id == record.id and fresh(store).verify(deep=True) == []
    with open(f"{store.layer_dir(record.layers[0])}/etc/passwd", "a") as file:
        file.write("evil:x:0:0::/:/bin/sh\n")
    assert store.verify() == [] and "digest" in store.verify("busybox", deep=True)[0]


def test_a_damaged_image_can_be_removed(store: ImageStore) -> None:
    record = busybox_image(store)
    os.truncate(store.blobs.path(record.id), 10)
    fresh(store).remove("busybox")
    assert store.list() == [] and os.listdir(store.layout.layers) == []


def test_a_layer_never_synced_in_an_earlier_boot_counts_as_absent(store: ImageStore) -> None:
    kept, lost = layer(store, "kept"), layer(store, "lost")
    store.commit(image_config(), [kept], "web")
    for name in (kept, lost):
        path = f"{store.layout.layers}/{name[7:]}/layer.json"
        text = Path(path).read_text()
        with open("/proc/sys/kernel/random/boot_id") as file:
            Path(path).write_text(text.replace(file.read().strip(), "an-earlier-boot"))
    after = fresh(store)
    assert after.has_layer(kept) and not after.has_layer(lost)
    assert layer(after, "lost") == lost and after.has_layer(lost)
    assert after.recover() == []


def test_a_request_is_remembered_as_long_as_its_image_lives(store: ImageStore) -> None:
    record = busybox_image(store)
    store.remember(digest(b"request"), record.id)
    recalled = fresh(store).recall(digest(b"request"))
    assert recalled is not None and recalled.id == record.id
    store.remove("busybox")
    assert store.recall(digest(b"request")) is None
    store.collect([])
    assert os.listdir(store.origins_dir) == []


# ---- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "holdfast-test", path], check=True)
    yield str(path)
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_is_said_and_leaves_the_old_image_working(small_disk: str, tmp_path: Path) -> None:
    store = ImageStore(Layout(f"{small_disk}/state", str(tmp_path / "run")))
    kept = busybox_image(store, "web")
    used = os.statvfs(small_disk).f_bavail
    big = layer_tar({"big": os.urandom(8 << 20)})
    with pytest.raises(DiskFull) as caught:
        store.add_layer_from_tar(io.BytesIO(big))
    assert caught.value.retryable and "No space left" in caught.value.message
    assert os.statvfs(small_disk).f_bavail == used
    with open(f"{small_disk}/filler", "wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(65536))
            file.flush()
    with pytest.raises(DiskFull):
        store.commit(image_config(Cmd=["x" * 100_000]), kept.layers, "web", {"a": "b" * 100_000})
    os.unlink(f"{small_disk}/filler")
    assert fresh(store).get("web") == kept and store.verify(deep=True) == [] and store.recover() == []


# ---- kill -9


WORK = """
import sys
from runtime.image.store import ImageStore
from runtime.layout import Layout
from tests.support.images import busybox_image, layer_tar, image_config
import io, os
store = ImageStore(Layout(sys.argv[1], sys.argv[2]))
print("go", flush=True)
number = int(sys.argv[3])
while True:
    number += 1
    with store.lease():
        layer = store.add_layer_from_tar(io.BytesIO(layer_tar({f"{number}-{n}": os.urandom(50) for n in range(30)})))
        store.commit(image_config(Env=[f"N={number}"]), [layer], "web", {"n": str(number)})
    store.collect([])
"""


def test_killed_at_any_instant_it_leaves_the_old_or_the_new_and_nothing_else(store: ImageStore) -> None:
    rounds = 60 if os.environ.get("HOLDFAST_LONG") else 12
    chosen = random.Random(7)
    garbage = 0
    for number in range(rounds):
        arguments = [store.layout.root, os.path.dirname(store.layout.run), str(number * 1000)]
        with subprocess.Popen([sys.executable, "-c", WORK, *arguments], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"go\n"
            time.sleep(chosen.uniform(0.02, 0.15))
            process.send_signal(signal.SIGKILL)
        after = fresh(store)
        found = after.get("web")
        if found is not None:
            assert found.config["config"]["Env"] == [f"N={found.labels['n']}"]
            assert len(os.listdir(after.lower_dirs(found)[0])) == 30
        assert after.verify(deep=True) == []
        garbage += len(after.recover())
        assert os.listdir(store.layout.ingest) == [] and os.listdir(store.layout.trash) == []
        after.collect([])
        assert len(os.listdir(store.layout.layers)) == len(os.listdir(store.layout.blobs)) == len(after.list())
    assert garbage > 0, "no kill hit the middle of the work: the test proves nothing"


def test_recovery_leaves_living_work_alone(store: ImageStore) -> None:
    with store.ingest() as ingest:
        Path(ingest.tree, "half").write_text("made")
        assert fresh(store).recover() == [] and os.path.exists(f"{ingest.tree}/half")
    assert os.listdir(store.layout.ingest) == []
