"""Images below a state root: names, configs and unpacked layers, content-addressed and crash-safe.

    images/names/<name>   {"id", "labels", "declared"}: what a name points to, and who owns the name
    images/ids/<hex>      {"size", "layers", "created_at", "bottom"}: one complete image
    images/origins/<hex>  the image last made from one request, so that the same request is not worked on twice
    blobs/sha256/<hex>    its config, byte for byte
    layers/<diff id>/     fs: the layer's files in overlay's form; layer.json: size, origin, `boot`

Reads take no lock. Writers hold one lock while they rename small files into place; a layer is filled in a private
ingest directory without it. A layer that carries `boot` was not yet synced to disk: it is good only in that boot, and
`commit` syncs it before an image refers to it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from runtime import api
from runtime.errors import Conflict, CorruptContent, EngineError, NotFound
from runtime.image.content import (
    Blobs,
    Ingest,
    begin_ingest,
    boot_id,
    digest_of,
    hex_of,
    lease,
    remove_file,
    sync_directory,
    sync_filesystem,
    translating,
    write_durably,
)
from runtime.image.records import ImageRecord, Named, Records, named_by, names_in, parse_config
from runtime.image.reference import may_be_id, short_name
from runtime.layout import Layout
from runtime.lock import locked
from runtime.snapshot.overlay import copy_tree, is_opaque, remove_tree

Progress = Callable[[str], None]
Texts = list[str]
_OUR_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOMEM)


class ImageStore:
    """Safe for several threads and several processes at once; cheap to construct."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.blobs = Blobs(layout.blobs)
        self.names_dir = f"{layout.images}/names"
        self.ids_dir = f"{layout.images}/ids"
        self.origins_dir = f"{layout.images}/origins"
        self.lease_path = f"{layout.images}/lease"
        self.records = Records()

    # ---- reading: no locks

    def get(self, name_or_id: str) -> ImageRecord | None:
        """By name, full id or unambiguous start of an id; a name that looks like an id wins. None when absent."""
        if _is_full_id(name_or_id):
            return self._record(name_or_id, None)
        entry = self._pointer(name_or_id)
        if entry is not None:
            return self._record(entry["id"], named_by(short_name(name_or_id), entry))
        id = self._complete(name_or_id)
        return self._record(id, None) if id else None

    def find_id(self, name_or_id: str) -> str:
        """As `get`, but only the id, also of an image whose config is damaged; raises NotFound."""
        entry = None if _is_full_id(name_or_id) else self._pointer(name_or_id)
        id = name_or_id if _is_full_id(name_or_id) else entry["id"] if entry else self._complete(name_or_id)
        if not id:
            raise NotFound(f'cannot find image "{name_or_id}": it does not exist')
        return str(id)

    def ids(self) -> set[str]:
        return {f"sha256:{name}" for name in names_in(self.ids_dir)}

    def list(self) -> list[ImageRecord]:
        """One record for each name, sorted, then one for each image without a name."""
        records, seen = [], set()
        for name, entry in self.named():
            record = self._try_record(entry["id"], named_by(name, entry))
            if record is not None:
                records.append(record)
                seen.add(record.id)
        for id in sorted(self.ids() - seen):
            record = self._try_record(id, ((), {}, None))
            if record is not None and record.id not in {entry["id"] for _, entry in self.named()}:
                records.append(record)
        return records

    def info(self, record: ImageRecord) -> api.ImageInfo:
        config = dict(record.config.get("config") or {})
        config["architecture"] = record.config.get("architecture", "")
        config["os"] = record.config.get("os", "")
        return api.ImageInfo(
            record.id,
            record.names,
            record.labels,
            record.declared,
            record.created_at,
            record.size,
            config,
            record.layers,
        )

    def lower_dirs(self, image: ImageRecord | str) -> Texts:
        """The unpacked layers as overlay lowers, top first. Takes a record, an id or a name."""
        facts = self.facts(image.id if isinstance(image, ImageRecord) else self.find_id(image))
        return [self.layer_dir(layer) for layer in facts["layers"][facts["bottom"] :]][::-1]

    def has_layer(self, diff_id: str) -> bool:
        return self.layer_facts(diff_id) is not None

    def layer_dir(self, diff_id: str) -> str:
        return f"{self.layout.layers}/{hex_of(diff_id)}/fs"

    def layer_size(self, diff_id: str) -> int:
        """Length of the layer's uncompressed tar."""
        facts = self.layer_facts(diff_id)
        if facts is None:
            raise NotFound(f'cannot use layer "{diff_id}": it does not exist')
        return int(facts["size"])

    def recall(self, origin: str) -> ImageRecord | None:
        """The image that `remember` noted for a request's digest, if it is still whole."""
        entry = self.records.read(f"{self.origins_dir}/{hex_of(origin)}")
        record = self._try_record(entry["id"], None) if entry else None
        return record if record and all(self.has_layer(layer) for layer in record.layers) else None

    # ---- making

    @contextmanager
    def lease(self) -> Iterator[Texts]:
        """Hold while layers are made and not yet committed: `collect` and `remove` leave all layers alone meanwhile.

        Layers appended to the list it gives are discarded again when the work fails.
        """
        self._create_directories()
        made: Texts = []
        try:
            with lease(self.lease_path):
                yield made
        except BaseException:
            self.discard(made)
            raise

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        """A private directory to fill; removed afterwards, also after a crash (see `recover`)."""
        self._create_directories()
        with translating("make image"), self.locked():
            ingest = begin_ingest(self.layout)
        with ingest:
            yield ingest

    def add_layer_from_dir(self, path: str, progress: Progress | None = None) -> str:
        """Take over an overlay upper directory as a layer and return its diff id; `path` is gone afterwards.

        The digest is that of the deterministic tar `layer.write_layer_tar` would write. Nobody may write below `path`.
        """
        from runtime.image.layer import layer_digest

        with self.ingest() as ingest, translating("make layer"):
            os.rmdir(ingest.tree)
            try:
                os.rename(path, ingest.tree)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copy_tree(path, ingest.tree)
                remove_tree(path)
            # the topmost layer's root is `/` in a container: a private 0700 directory would lock out all but root
            os.chmod(ingest.tree, 0o755)  # noqa: S103
            os.chown(ingest.tree, 0, 0)
            diff_id, size = layer_digest(ingest.tree, _reporter(progress, "packing layer"))
            self._keep_layer(ingest, diff_id, size, foreign=False)
        return diff_id

    def add_layer_from_tar(
        self, fileobj: IO[bytes], progress: Progress | None = None, blob_digest: str = "", diff_id: str = ""
    ) -> str:
        """Unpack a layer tar (plain, gzip or zstd), return its diff id; keeps nothing when it raises CorruptContent."""
        from runtime.image.extract import extract
        from runtime.image.layer import LayerStream

        if diff_id and not blob_digest and self.has_layer(diff_id):
            return diff_id
        with self.ingest() as ingest:
            stream = LayerStream(fileobj, blob_digest, diff_id, on_bytes=_reporter(progress, "unpacking layer"))
            try:
                extract(iter(stream), ingest.tree)
            except OSError as error:
                if error.errno in _OUR_FAULT:
                    with translating("unpack layer"):
                        raise
                raise CorruptContent(f"cannot unpack layer: {error.strerror}: {error.filename!r}") from error
            with translating("unpack layer"):
                self._keep_layer(ingest, stream.diff_id, stream.size, foreign=True)
        return stream.diff_id

    def commit(
        self,
        config: Mapping[str, Any],
        diff_ids: Sequence[str],
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        declared: Any = None,
    ) -> ImageRecord:
        """Make an image of layers that are here. Its id is the digest of the canonical form of `config`."""
        whole = {**config, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}
        raw = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return self.commit_raw(raw, name, labels, declared)

    def commit_raw(
        self, raw: bytes, name: str | None = None, labels: Mapping[str, str] | None = None, declared: Any = None
    ) -> ImageRecord:
        """As `commit`, with the config's own bytes, so that an image from elsewhere keeps its id."""
        _, layers = parse_config(raw)
        key = short_name(name) if name else ""
        id = digest_of(raw)
        what = f'image "{name or id}"'
        self._create_directories()
        with translating(f"keep {what}"):
            self._settle(layers, what)
            with self.locked():
                sizes = []
                for layer in layers:
                    facts = self.layer_facts(layer)
                    if facts is None:
                        raise NotFound(f'cannot keep {what}: its layer "{layer}" does not exist')
                    sizes.append(facts)
                self.blobs.write(raw)
                if self.records.read(f"{self.ids_dir}/{id[7:]}") is None:
                    opaque = [index for index, facts in enumerate(sizes) if facts["opaque"]]
                    self._write_json(
                        f"{self.ids_dir}/{id[7:]}",
                        {
                            "layers": layers,
                            "size": len(raw) + sum(facts["size"] for facts in sizes),
                            "created_at": time.time(),
                            "bottom": opaque[-1] if opaque else 0,
                        },
                    )
                if key:
                    self._point(key, id, labels or {}, declared)
        record = self.get(key or id)
        if record is None:
            raise EngineError(f"cannot keep {what}: it was removed at once by another process")
        return record

    def remember(self, origin: str, id: str) -> None:
        """Note that the request with digest `origin` gave image `id`; see `recall`."""
        with translating("keep image"), self.locked():
            self._write_json(f"{self.origins_dir}/{hex_of(origin)}", {"id": id})

    def tag(self, name: str, new: str, labels: Mapping[str, str] | None = None, declared: Any = None) -> ImageRecord:
        """Let `new` point to the image that `name` (or an id) names; it stands alone, with labels of its own."""
        record = self.get(name)
        if record is None:
            raise NotFound(f'cannot tag image "{name}": it does not exist')
        key = short_name(new)
        with translating(f'tag image "{name}"'), self.locked():
            if self.records.read(f"{self.ids_dir}/{record.id[7:]}") is None:
                raise NotFound(f'cannot tag image "{name}": it does not exist')
            self._point(key, record.id, labels or {}, declared)
        return ImageRecord(
            self, record.id, record.config, self.facts(record.id), ((key,), dict(labels or {}), declared)
        )

    # ---- removing

    def remove(self, name_or_id: str, force: bool = False, in_use: Collection[str] = ()) -> None:
        """Remove a name and, with its last name, the image. `in_use` are ids that containers run from.

        Raises Conflict when the last name of an image in use is removed, or an id with several names, without
        `force`; with it the names go and the content stays until no container needs it.
        """
        from runtime.image.upkeep import drop

        try:
            id = self.find_id(name_or_id)
        except NotFound:
            return
        all_names = self.names_of(id)[0]
        by_name = not _is_full_id(name_or_id) and self._pointer(name_or_id) is not None
        names = (short_name(name_or_id),) if by_name else all_names
        if len(names) > 1 and not force:
            raise Conflict(f'cannot remove image "{name_or_id}": it has the names {", ".join(names)}', "use --force")
        last = set(all_names) <= set(names)
        if last and id in in_use and not force:
            raise Conflict(
                f'cannot remove image "{name_or_id}": a container uses it', "remove the container or use --force"
            )
        with translating(f'remove image "{name_or_id}"'):
            with self.locked():
                for name in names:
                    remove_file(self._name_path(name))
                sync_directory(self.names_dir)
            if last and id not in in_use:
                drop(self, {id}, set(in_use), ())

    def collect(self, keep: Sequence[str] = ()) -> int:
        """Drop every image that has no name and is not in `keep`, and every layer that then nothing needs.

        `keep` takes image ids and diff ids. Returns bytes freed; 0 while another process makes an image.
        """
        from runtime.image.upkeep import drop

        self._create_directories()
        with translating("collect images"):
            return drop(self, self.ids() - set(keep), set(keep), None)

    def discard(self, layers: Sequence[str]) -> None:
        """Remove layers of an image that did not come about, unless an image or another maker may need them."""
        from runtime.image.upkeep import drop

        with translating("remove layers"):
            drop(self, set(), set(), layers)

    # ---- care

    def recover(self) -> Texts:
        """Remove what killed processes and power cuts left half made; returns the paths removed."""
        from runtime.image.upkeep import recover

        self._create_directories()
        with translating("recover images"):
            return recover(self)

    def verify(self, name_or_id: str = "", deep: bool = False) -> Texts:
        """Problems of one image or of all, a line each; `deep` reads every file of every layer."""
        from runtime.image.upkeep import verify

        with translating("verify images"):
            return verify(self, name_or_id, deep)

    def usage(self) -> dict[str, Any]:
        """Sizes for `system df`: shared and unique bytes of images, all layers once, what `collect` would free."""
        from runtime.image.upkeep import usage

        return usage(self)

    # ---- inside

    def _create_directories(self) -> None:
        if not os.path.isdir(self.origins_dir):
            with translating("make image"):
                self.layout.create()
                for path in (self.names_dir, self.ids_dir, self.origins_dir):
                    os.makedirs(path, mode=0o700, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        self._create_directories()
        with locked(f"{self.layout.images}/lock"):
            yield

    def _name_path(self, name: str) -> str:
        return f"{self.names_dir}/{short_name(name).replace('/', '+')}"  # no name has a plus sign

    def named(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in names_in(self.names_dir):
            entry = self.records.read(f"{self.names_dir}/{file}")
            if entry is not None:
                yield file.replace("+", "/"), entry

    def _write_json(self, path: str, value: Any) -> None:
        write_durably(path, json.dumps(value, separators=(",", ":")).encode())

    def _point(self, key: str, id: str, labels: Mapping[str, str], declared: Any) -> None:
        entry = {"id": id, "labels": dict(labels), "declared": declared}
        if self.records.read(self._name_path(key)) != entry:
            self._write_json(self._name_path(key), entry)

    def facts(self, id: str) -> dict[str, Any]:
        facts: dict[str, Any] | None = self.records.read(f"{self.ids_dir}/{hex_of(id)}")
        if facts is None:
            raise NotFound(f'cannot use image "{id}": it does not exist')
        return facts

    def _pointer(self, name: str) -> dict[str, Any] | None:
        """A name's record; None also for a text that is no name but may be an id (in upper case, too short, …)."""
        entry: dict[str, Any] | None = self.records.read(self._name_path(name)) if name else None
        return entry

    def _complete(self, start: str) -> str | None:
        if not may_be_id(start):
            return None
        start = start.removeprefix("sha256:")
        found = [name for name in names_in(self.ids_dir) if name.startswith(start)]
        if len(found) > 1:
            raise Conflict(f'cannot find image "{start}": {len(found)} ids begin so', "give more digits")
        return f"sha256:{found[0]}" if found else None

    def _record(self, id: str, named: Named | None) -> ImageRecord | None:
        facts = self.records.read(f"{self.ids_dir}/{hex_of(id)}")
        if facts is None:
            return None
        try:
            config = self.records.cached(self.blobs.path(id), lambda _path: json.loads(self.blobs.read(id)))
        except FileNotFoundError:
            raise NotFound(f'cannot use image "{id}": its config is gone', "remove it and make it again") from None
        return ImageRecord(self, id, config, facts, named)

    def _try_record(self, id: str, named: Named | None) -> ImageRecord | None:
        """For listings: one damaged image must not hide the others; `verify` names it."""
        try:
            return self._record(id, named)
        except (NotFound, CorruptContent):
            return None

    def names_of(self, id: str) -> Named:
        found = [(name, entry) for name, entry in self.named() if entry["id"] == id]
        if not found:
            return (), {}, None
        first = found[0][1]
        return tuple(name for name, _ in found), first["labels"], first["declared"]

    def layer_facts(self, diff_id: str) -> dict[str, Any] | None:
        facts: dict[str, Any] | None = self.records.read(f"{self.layout.layers}/{hex_of(diff_id)}/layer.json")
        return None if facts is None or facts["boot"] not in ("", boot_id()) else facts

    def _keep_layer(self, ingest: Ingest, diff_id: str, size: int, foreign: bool) -> None:
        facts = {
            "size": size,
            "files": sum(len(files) + len(folders) for _, folders, files in os.walk(ingest.tree)) if foreign else 0,
            "foreign": foreign,
            "opaque": is_opaque(ingest.tree),
            "boot": boot_id(),
        }
        with open(f"{ingest.layer}/layer.json", "w") as file:
            json.dump(facts, file)
        os.chmod(ingest.layer, 0o700)
        with self.locked():
            if self.has_layer(diff_id):
                return
            target = f"{self.layout.layers}/{hex_of(diff_id)}"
            remove_tree(target, self.layout.trash)
            os.rename(ingest.layer, target)

    def _settle(self, layers: Sequence[str], what: str) -> None:
        """Bring layers that were only renamed into place to the disk, all with one flush."""
        fresh = [layer for layer in layers if (facts := self.layer_facts(layer)) is not None and facts["boot"]]
        if not fresh:
            return
        sync_filesystem(self.layout.layers)
        with self.locked():
            for layer in fresh:
                facts = self.layer_facts(layer)
                if facts is None:
                    raise NotFound(f'cannot keep {what}: its layer "{layer}" does not exist')
                self._write_json(f"{self.layout.layers}/{layer[7:]}/layer.json", {**facts, "boot": ""})


def _reporter(progress: Progress | None, what: str) -> Callable[[int], None] | None:
    if progress is None:
        return None
    told = 0.0

    def report(count: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= 1.0:
            if told:
                progress(f"{what}: {count / 1e6:.0f} MB")
            told = now

    return report


def _is_full_id(text: str) -> bool:
    return len(text) == 71 and text.startswith("sha256:")


__all__ = ["ImageRecord", "ImageStore", "parse_config"]
