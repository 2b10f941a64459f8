"""Images below a state root: names, configs and unpacked layers, content-addressed and crash-safe.

    images/names/<name>   {"id", "labels", "declared"}: what a name points to, and who owns the name
    images/ids/<hex>      {"size", "layers", "created_at", "bottom"}: one complete image
    images/origins/<hex>  the image last made from one request, so that the same request is not worked on twice
    blobs/sha256/<hex>    its config, byte for byte
    layers/<diff id>/     fs: the layer's files in overlay's form; layer.json: {"size", "entries", "opaque", "boot"}

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
from runtime.errors import Conflict, CorruptContent, DiskFull, EngineError, NotFound
from runtime.image.content import (
    Blobs,
    Ingest,
    begin_ingest,
    boot_id,
    digest_of,
    hex_of,
    lease,
    remove_file,
    sweep,
    sync_directory,
    sync_filesystem,
    translating,
    write_durably,
)
from runtime.image.reference import may_be_id, short_name
from runtime.layout import Layout
from runtime.lock import locked
from runtime.snapshot.overlay import copy_tree, empty_trash, is_opaque, remove_tree

Progress = Callable[[str], None]
_OUR_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOMEM)


class ImageRecord:
    """One image under one name (or found by id: then under all its names; labels and declared are the first name's).

    `config` is the whole OCI image config; `layers` are diff ids, base first.
    """

    __slots__ = ("_named", "_store", "config", "created_at", "id", "layers", "size")

    def __init__(
        self, store: ImageStore, id: str, config: dict[str, Any], facts: dict[str, Any], named: _Named | None
    ) -> None:
        self._store = store
        self._named = named
        self.id = id
        self.config = config
        self.created_at: float = facts["created_at"]
        self.size: int = facts["size"]
        self.layers: tuple[str, ...] = tuple(facts["layers"])

    def _names(self) -> _Named:
        if self._named is None:  # looked up only when asked for: a container's start needs none of it
            self._named = self._store._named(self.id)
        return self._named

    @property
    def names(self) -> tuple[str, ...]:
        return self._names()[0]

    @property
    def labels(self) -> dict[str, str]:
        return self._names()[1]

    @property
    def declared(self) -> Any:
        return self._names()[2]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageRecord) and (self.id, self.names) == (other.id, other.names)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"ImageRecord({self.id[:19]}, names={self.names})"


_Named = tuple[tuple[str, ...], dict[str, str], Any]


class ImageStore:
    """Safe for several threads and several processes at once; cheap to construct."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.blobs = Blobs(layout.blobs)
        self._names_dir = f"{layout.images}/names"
        self._ids_dir = f"{layout.images}/ids"
        self._origins_dir = f"{layout.images}/origins"
        self._cache: dict[str, tuple[tuple[int, int, int], Any]] = {}

    # ---- reading: no locks

    def get(self, name_or_id: str) -> ImageRecord | None:
        """By name, full id or unambiguous start of an id; a name that looks like an id wins. None when absent."""
        if name_or_id.startswith("sha256:") and len(name_or_id) == 71:
            return self._record(name_or_id, None)
        entry = self._read_json(self._name_path(name_or_id))
        if entry is not None:
            return self._record(entry["id"], _named_by(short_name(name_or_id), entry))
        if not may_be_id(name_or_id):
            return None
        start = name_or_id.removeprefix("sha256:")
        found = [name for name in self._list(self._ids_dir) if name.startswith(start)]
        if len(found) > 1:
            raise Conflict(f'cannot find image "{name_or_id}": {len(found)} ids begin so', "give more digits")
        return self._record(f"sha256:{found[0]}", None) if found else None

    def list(self) -> list[ImageRecord]:
        """One record for each name, sorted, then one for each image without a name."""
        records, seen = [], set()
        for name, entry in self._all_names():
            record = self._try_record(entry["id"], _named_by(name, entry))
            if record is not None:
                records.append(record)
                seen.add(record.id)
        for hexadecimal in self._list(self._ids_dir):
            if f"sha256:{hexadecimal}" not in seen:
                record = self._try_record(f"sha256:{hexadecimal}", ((), {}, None))
                if record is not None:
                    records.append(record)
        return records

    def info(self, record: ImageRecord) -> api.ImageInfo:
        config = dict(record.config.get("config") or {})
        config["architecture"] = record.config.get("architecture", "")
        config["os"] = record.config.get("os", "")
        return api.ImageInfo(
            record.id, record.names, record.labels, record.declared, record.created_at, record.size, config, record.layers
        )

    def lower_dirs(self, image: ImageRecord | str) -> list[str]:
        """The unpacked layers as overlay lowers, top first. Takes a record, an id or a name."""
        id = image.id if isinstance(image, ImageRecord) else image
        facts = self._read_json(f"{self._ids_dir}/{id[7:]}") if id.startswith("sha256:") else None
        if facts is None:
            record = self.get(id)
            if record is None:
                raise NotFound(f'cannot use image "{id}": it does not exist')
            facts = self._read_json(f"{self._ids_dir}/{record.id[7:]}")
            if facts is None:
                raise NotFound(f'cannot use image "{id}": it does not exist')
        return [self.layer_dir(layer) for layer in facts["layers"][facts["bottom"] :]][::-1]

    def has_layer(self, diff_id: str) -> bool:
        return self._layer_facts(diff_id) is not None

    def layer_dir(self, diff_id: str) -> str:
        return f"{self.layout.layers}/{hex_of(diff_id)}/fs"

    def layer_size(self, diff_id: str) -> int:
        """Length of the layer's uncompressed tar."""
        facts = self._layer_facts(diff_id)
        if facts is None:
            raise NotFound(f'cannot use layer "{diff_id}": it does not exist')
        return int(facts["size"])

    def recall(self, origin: str) -> ImageRecord | None:
        """The image that `remember` noted for a request's digest, if it is still whole."""
        entry = self._read_json(f"{self._origins_dir}/{hex_of(origin)}")
        record = self._try_record(entry["id"], None) if entry else None
        return record if record and all(self.has_layer(layer) for layer in record.layers) else None

    # ---- making

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold while layers are made and not yet committed: `collect` and `remove` leave all layers alone meanwhile."""
        self._create_directories()
        with lease(f"{self.layout.images}/lease"):
            yield

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        """A private directory to fill; removed afterwards, also after a crash (see `recover`)."""
        self._create_directories()
        with translating("make image"), self._locked():
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
            os.chmod(ingest.tree, 0o755)
            os.chown(ingest.tree, 0, 0)
            diff_id, size = layer_digest(ingest.tree, _reporter(progress, "packing layer"))
            self._keep_layer(ingest, diff_id, size)
        return diff_id

    def add_layer_from_tar(
        self, fileobj: IO[bytes], progress: Progress | None = None, blob_digest: str = "", diff_id: str = ""
    ) -> str:
        """Unpack a layer tar (plain, gzip or zstd) and return its diff id; raises CorruptContent, keeps nothing then."""
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
                self._keep_layer(ingest, stream.diff_id, stream.size)
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
        config, layers = parse_config(raw)
        key = short_name(name) if name else ""
        id = digest_of(raw)
        what = f'image "{name or id}"'
        self._create_directories()
        with translating(f"keep {what}"):
            self._settle(layers, what)
            with self._locked():
                sizes = []
                for layer in layers:
                    facts = self._layer_facts(layer)
                    if facts is None:
                        raise NotFound(f'cannot keep {what}: its layer "{layer}" does not exist')
                    sizes.append(facts)
                self.blobs.write(raw)
                if self._read_json(f"{self._ids_dir}/{id[7:]}") is None:
                    opaque = [index for index, facts in enumerate(sizes) if facts["opaque"]]
                    self._write_json(
                        f"{self._ids_dir}/{id[7:]}",
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
        with translating("keep image"), self._locked():
            self._write_json(f"{self._origins_dir}/{hex_of(origin)}", {"id": id})

    def tag(
        self, name: str, new: str, labels: Mapping[str, str] | None = None, declared: Any = None
    ) -> ImageRecord:
        """Let `new` point to the image that `name` (or an id) names; it stands alone, with labels of its own."""
        record = self.get(name)
        if record is None:
            raise NotFound(f'cannot tag image "{name}": it does not exist')
        key = short_name(new)
        with translating(f'tag image "{name}"'), self._locked():
            if self._read_json(f"{self._ids_dir}/{record.id[7:]}") is None:
                raise NotFound(f'cannot tag image "{name}": it does not exist')
            self._point(key, record.id, labels or {}, declared)
        return ImageRecord(self, record.id, record.config, self._facts(record.id), ((key,), dict(labels or {}), declared))

    # ---- removing

    def remove(self, name_or_id: str, force: bool = False, in_use: Collection[str] = ()) -> None:
        """Remove a name and, with its last name, the image. `in_use` are ids that containers run from.

        Raises Conflict when the last name of an image in use is removed, or an id with several names, without
        `force`; with it the names go and the content stays until no container needs it.
        """
        entry = None if name_or_id.startswith("sha256:") else self._read_json(self._name_path(name_or_id))
        if entry is not None:
            names, id = (short_name(name_or_id),), str(entry["id"])
        else:
            try:
                record = self.get(name_or_id)
            except (CorruptContent, NotFound):
                record = None
                id = name_or_id  # a damaged image can still be removed by its id
            else:
                if record is None:
                    return
                id = record.id
            names = self._named(id)[0]
            if len(names) > 1 and not force:
                raise Conflict(f'cannot remove image "{name_or_id}": it has the names {", ".join(names)}', "use --force")
        last = set(self._named(id)[0]) <= set(names)
        if last and id in in_use and not force:
            raise Conflict(f'cannot remove image "{name_or_id}": a container uses it', "remove the container or use --force")
        with translating(f'remove image "{name_or_id}"'):
            with self._locked():
                for name in names:
                    remove_file(self._name_path(name))
                sync_directory(self._names_dir)
            if last and id not in in_use:
                self._drop({id}, set(in_use))

    def collect(self, keep: Sequence[str] = ()) -> int:
        """Drop every image that has no name and is not in `keep`, and every layer that then nothing needs.

        `keep` takes image ids and diff ids. Returns bytes freed; 0 while another process makes an image.
        """
        with translating("collect images"):
            named = {str(entry["id"]) for _, entry in self._all_names()}
            ids = {f"sha256:{name}" for name in self._list(self._ids_dir)}
            return self._drop(ids - named - set(keep), set(keep), all_layers=True)

    def _drop(self, ids: set[str], keep: set[str], all_layers: bool = False) -> int:
        """Forget images and the layers that only they had; with `all_layers` also those that no image has."""
        self._create_directories()
        freed = 0
        with lease(f"{self.layout.images}/lease", exclusive=True) as idle:
            if not idle:
                return 0
            with self._locked():
                candidates: set[str] = set()
                named = {str(entry["id"]) for _, entry in self._all_names()}
                for id in ids - named:
                    facts = self._read_json(f"{self._ids_dir}/{id[7:]}") or {"layers": []}
                    candidates.update(facts["layers"])
                    remove_file(f"{self._ids_dir}/{id[7:]}")
                    freed += self.blobs.remove(id)
                needed = set(keep)
                for hexadecimal in self._list(self._ids_dir):
                    needed.update(self._facts(f"sha256:{hexadecimal}")["layers"])
                if all_layers:
                    candidates = {f"sha256:{name}" for name in self._list(self.layout.layers)}
                    for name in self._list(self._origins_dir):
                        entry = self._read_json(f"{self._origins_dir}/{name}")
                        if entry is None or not os.path.exists(f"{self._ids_dir}/{entry['id'][7:]}"):
                            remove_file(f"{self._origins_dir}/{name}")
                for layer in candidates - needed:
                    facts = self._read_json(f"{self.layout.layers}/{layer[7:]}/layer.json")
                    freed += int(facts["size"]) if facts else 0
                    remove_tree(f"{self.layout.layers}/{layer[7:]}", self.layout.trash)
        return freed

    # ---- care

    def recover(self) -> list[str]:
        """Remove what killed processes and power cuts left half made; returns the paths removed."""
        self._create_directories()
        with translating("recover images"):
            with self._locked():
                folders = [self._names_dir, self._ids_dir, self._origins_dir, self.layout.blobs, self.layout.layers]
                removed = sweep(self.layout, folders)
                for name in self._list(self.layout.layers):
                    path = f"{self.layout.layers}/{name}"
                    for leftover in [file for file in self._list(path) if file.startswith(".tmp-")]:
                        remove_file(f"{path}/{leftover}")
                    if self._layer_facts(f"sha256:{name}") is None:
                        remove_tree(path, self.layout.trash)
                        removed.append(path)
            empty_trash(self.layout.trash)
        return removed

    def verify(self, name_or_id: str = "", deep: bool = False) -> list[str]:
        """Problems of one image or of all, a line each. `deep` packs each layer again and compares its digest.

        A layer unpacked from another tool's tar cannot be packed to the same digest; its files are counted instead.
        """
        problems = []
        ids = {f"sha256:{name}" for name in self._list(self._ids_dir)}
        for name, entry in self._all_names():
            if entry["id"] not in ids:
                problems.append(f'image "{name}": its content {entry["id"]} does not exist')
        if name_or_id:
            record = self.get(name_or_id)
            if record is None:
                raise NotFound(f'cannot verify image "{name_or_id}": it does not exist')
            ids, problems = {record.id}, []
        layers: set[str] = set()
        for id in sorted(ids):
            try:
                self.blobs.read(id)
            except (NotFound, CorruptContent) as error:
                problems.append(f'image "{id}": {error.message}')
            layers.update(self._facts(id)["layers"])
        for layer in sorted(layers):
            problems.extend(self._verify_layer(layer, deep))
        return problems

    def usage(self) -> dict[str, Any]:
        """Sizes for `system df`: each image's shared and unique bytes, all layers once, and what `collect` would free."""
        users: dict[str, set[str]] = {}
        images: dict[str, dict[str, Any]] = {}
        for record in self.list():
            image = images.setdefault(record.id, {"id": record.id, "names": [], "layers": record.layers})
            image["names"].extend(record.names)
            image["size"], image["created_at"] = record.size, record.created_at
            for layer in set(record.layers):
                users.setdefault(layer, set()).add(record.id)
        sizes = {}
        for name in self._list(self.layout.layers):
            facts = self._layer_facts(f"sha256:{name}")
            if facts is not None:
                sizes[f"sha256:{name}"] = int(facts["size"])
        for image in images.values():
            unique = sum(sizes.get(layer, 0) for layer in set(image["layers"]) if len(users[layer]) == 1)
            image["unique"], image["shared"] = unique, image["size"] - unique
        needed = {layer for image in images.values() if image["names"] for layer in image["layers"]}
        return {
            "images": list(images.values()),
            "layers": [
                {"diff_id": layer, "size": size, "images": len(users.get(layer, ()))} for layer, size in sizes.items()
            ],
            "total": sum(sizes.values()),
            "reclaimable": sum(size for layer, size in sizes.items() if layer not in needed),
        }

    # ---- inside

    def _create_directories(self) -> None:
        if not os.path.isdir(self._origins_dir):
            with translating("make image"):
                self.layout.create()
                for path in (self._names_dir, self._ids_dir, self._origins_dir):
                    os.makedirs(path, mode=0o700, exist_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._create_directories()
        with locked(f"{self.layout.images}/lock"):
            yield

    def _name_path(self, name: str) -> str:
        return f"{self._names_dir}/{short_name(name).replace('/', '+')}"  # no name has a plus sign

    def _all_names(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in self._list(self._names_dir):
            entry = self._read_json(f"{self._names_dir}/{file}")
            if entry is not None:
                yield file.replace("+", "/"), entry

    def _list(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def _read_json(self, path: str) -> Any:
        """A small JSON file, parsed again only when it was replaced; None when absent."""
        try:
            info = os.stat(path)
            key = (info.st_mtime_ns, info.st_ino, info.st_size)
            known = self._cache.get(path)
            if known is not None and known[0] == key:
                return known[1]
            with open(path, "rb") as file:
                value = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise CorruptContent(f'cannot read image record "{path}": {error}') from error
        if len(self._cache) > 4096:
            self._cache.clear()
        self._cache[path] = (key, value)
        return value

    def _write_json(self, path: str, value: Any) -> None:
        write_durably(path, json.dumps(value, separators=(",", ":")).encode())

    def _point(self, key: str, id: str, labels: Mapping[str, str], declared: Any) -> None:
        entry = {"id": id, "labels": dict(labels), "declared": declared}
        if self._read_json(self._name_path(key)) != entry:
            self._write_json(self._name_path(key), entry)

    def _facts(self, id: str) -> dict[str, Any]:
        facts: dict[str, Any] | None = self._read_json(f"{self._ids_dir}/{hex_of(id)}")
        if facts is None:
            raise NotFound(f'cannot use image "{id}": it does not exist')
        return facts

    def _record(self, id: str, named: _Named | None) -> ImageRecord | None:
        facts = self._read_json(f"{self._ids_dir}/{hex_of(id)}")
        if facts is None:
            return None
        path = self.blobs.path(id)
        try:
            info = os.stat(path)
        except FileNotFoundError:
            raise NotFound(f'cannot use image "{id}": its config is gone', "remove it and make it again") from None
        key = (info.st_mtime_ns, info.st_ino, info.st_size)
        known = self._cache.get(path)
        if known is None or known[0] != key:
            known = self._cache[path] = (key, json.loads(self.blobs.read(id)))
        return ImageRecord(self, id, known[1], facts, named)

    def _try_record(self, id: str, named: _Named | None) -> ImageRecord | None:
        """For listings: one damaged image must not hide the others; `verify` names it."""
        try:
            return self._record(id, named)
        except (NotFound, CorruptContent):
            return None

    def _named(self, id: str) -> _Named:
        found = [(name, entry) for name, entry in self._all_names() if entry["id"] == id]
        if not found:
            return (), {}, None
        first = found[0][1]
        return tuple(name for name, _ in found), first["labels"], first["declared"]

    def _layer_facts(self, diff_id: str) -> dict[str, Any] | None:
        facts: dict[str, Any] | None = self._read_json(f"{self.layout.layers}/{hex_of(diff_id)}/layer.json")
        return None if facts is None or facts["boot"] not in ("", boot_id()) else facts

    def _keep_layer(self, ingest: Ingest, diff_id: str, size: int) -> None:
        entries = sum(len(files) + len(folders) for _, folders, files in os.walk(ingest.tree))
        facts = {"size": size, "entries": entries, "opaque": is_opaque(ingest.tree), "boot": boot_id()}
        with open(f"{ingest.layer}/layer.json", "w") as file:
            json.dump(facts, file)
        with self._locked():
            if self.has_layer(diff_id):
                return
            target = f"{self.layout.layers}/{hex_of(diff_id)}"
            remove_tree(target, self.layout.trash)
            os.rename(ingest.layer, target)

    def _settle(self, layers: Sequence[str], what: str) -> None:
        """Bring layers that were only renamed into place to the disk, all with one flush."""
        fresh = [layer for layer in layers if (facts := self._layer_facts(layer)) is not None and facts["boot"]]
        if not fresh:
            return
        sync_filesystem(self.layout.layers)
        with self._locked():
            for layer in fresh:
                facts = self._layer_facts(layer)
                if facts is None:
                    raise NotFound(f'cannot keep {what}: its layer "{layer}" does not exist')
                self._write_json(f"{self.layout.layers}/{layer[7:]}/layer.json", {**facts, "boot": ""})

    def _verify_layer(self, layer: str, deep: bool) -> list[str]:
        facts = self._layer_facts(layer)
        folder = self.layer_dir(layer)
        if facts is None or not os.path.isdir(folder):
            return [f'layer "{layer}": it does not exist']
        if not deep:
            return []
        if facts.get("origin") != "tar":
            from runtime.image.layer import layer_digest

            actual = layer_digest(folder)[0]
            return [] if actual == layer else [f'layer "{layer}": its files now have the digest {actual}']
        entries = sum(len(files) + len(folders) for _, folders, files in os.walk(folder))
        return [] if entries == facts["entries"] else [f'layer "{layer}": {entries} files, not {facts["entries"]}']


def _named_by(name: str, entry: Mapping[str, Any]) -> _Named:
    return (name,), entry["labels"], entry["declared"]


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


def parse_config(raw: bytes) -> tuple[dict[str, Any], list[str]]:
    """An image config and its diff ids; raises CorruptContent unless it is shaped like one."""
    try:
        config = json.loads(raw)
        layers = config["rootfs"]["diff_ids"]
        if not isinstance(config.get("config") or {}, dict) or not isinstance(layers, list):
            raise TypeError("wrong types")
        for layer in layers:
            hex_of(layer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptContent(f"cannot read image config: {error!r}") from error
    return config, layers


__all__ = ["DiskFull", "ImageRecord", "ImageStore", "parse_config"]
