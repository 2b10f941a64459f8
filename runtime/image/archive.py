"""Load one image from an OCI layout (directory or tar) or a docker-save tar, every digest verified."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol

from runtime import api
from runtime.errors import CorruptContent, InvalidSpec, NotFound
from runtime.image import oci
from runtime.image.content import digest_of, hex_of, translating
from runtime.image.layer import decompressed
from runtime.image.store import ImageRecord, ImageStore, parse_config

_CHUNK = 1 << 20
_DEEPEST_INDEX = 4
_MOST_MEMBERS = 100_000


class _Archive(Protocol):
    """Files by their path inside the archive, `./` left away."""

    def has(self, path: str) -> bool: ...
    def open(self, path: str) -> IO[bytes]: ...


@dataclass(frozen=True, slots=True)
class _Layer:
    path: str
    blob_digest: str


@dataclass(frozen=True, slots=True)
class _Found:
    """One image of an archive: how it is called there, its config and where its layers lie."""

    names: tuple[str, ...]
    digest: str
    config: bytes
    layers: tuple[_Layer, ...]


def archive_digest(path: str) -> str:
    """Identity of an archive: of a tar its sha256, of an OCI layout directory that of its index.json."""
    with _reading(path):
        if os.path.isdir(path):
            with open(f"{path}/index.json", "rb") as file:
                return digest_of(file.read())
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def load(
    store: ImageStore,
    request: api.ArchiveRequest,
    name: str | None,
    labels: api.Labels,
    declared: api.Json,
    progress: api.Progress,
) -> ImageRecord:
    """Point `name` at the archive's image (`request.ref` picks one of several). All of it is loaded, or nothing.

    Raises InvalidSpec when the archive is none or the choice is open, CorruptContent when a digest does not match.
    """
    path, ref = request.path, request.ref
    origin = digest_of(f"archive {archive_digest(path)} {ref}".encode())
    with store.lease() as made:
        known = store.recall(origin)
        if known is not None:
            return store.commit_raw(store.blobs.read(known.id), name, labels, declared) if name else known
        with _opened(store, path) as archive:
            found = _choose(_images(archive, path), ref, path)
            record = _take(store, archive, found, name, labels, declared, progress, made)
        store.remember(origin, record.id)
    return record


def _take(
    store: ImageStore, archive: _Archive, found: _Found, name: str | None, labels: api.Labels, declared: Any,
    progress: api.Progress, made: list[str],
) -> ImageRecord:  # fmt: skip
    config, diff_ids = parse_config(found.config)
    if len(diff_ids) != len(found.layers):
        raise CorruptContent(
            f"cannot load image: its config names {len(diff_ids)} layers, its manifest {len(found.layers)}"
        )
    platform = f"{config.get('os', 'linux')}/{config.get('architecture', '')}"
    if platform != oci.host_platform():
        progress(f"load: the image is made for {platform}, this host is {oci.host_platform()}")
    for number, (diff_id, layer) in enumerate(zip(diff_ids, found.layers, strict=True), 1):
        if store.has_layer(diff_id):
            continue
        progress(f"load: layer {number} of {len(diff_ids)}")
        with archive.open(layer.path) as file:
            made.append(store.add_layer_from_tar(file, progress, layer.blob_digest, diff_id))
    return store.commit_raw(found.config, name, labels, declared)


# ---- what the archive holds -------------------------------------------------------------------------------------


def _images(archive: _Archive, path: str) -> list[_Found]:
    # newer docker writes both forms into one tar; the OCI one has a digest for every byte
    if archive.has("index.json"):
        index = oci.read_index(_read(archive, "index.json"))
        found = list(_in_index(archive, oci.for_this_host(index) or index, (), 0))
        if found or not archive.has("manifest.json"):
            return found
    if archive.has("manifest.json"):
        return list(_in_docker_save(archive))
    raise InvalidSpec(
        f'cannot load archive "{path}": it has neither index.json nor manifest.json',
        "give an OCI layout (directory or tar) or a tar made by `docker save`",
    )


def _in_index(
    archive: _Archive, descriptors: list[oci.Descriptor], names: tuple[str, ...], depth: int
) -> Iterator[_Found]:
    for descriptor in descriptors:
        called = descriptor.names or names
        raw = _blob(archive, descriptor)
        document = oci.read_document(raw, "image manifest")
        if descriptor.media_type in oci.INDEXES or "manifests" in document:
            if depth >= _DEEPEST_INDEX:
                raise CorruptContent("cannot load archive: its indexes are nested too deep")
            yield from _in_index(archive, oci.for_this_host(oci.read_index(raw)), called, depth + 1)
            continue
        manifest = oci.read_manifest(raw)
        yield _Found(
            called,
            descriptor.digest,
            _blob(archive, manifest.config),
            tuple(_Layer(_blob_path(layer.digest), layer.digest) for layer in manifest.layers),
        )


def _in_docker_save(archive: _Archive) -> Iterator[_Found]:
    import json

    try:
        entries = json.loads(_read(archive, "manifest.json"))
        for entry in entries:
            config_path, layers = entry["Config"], entry["Layers"]
            config = _read(archive, config_path)
            digest = digest_of(config)
            stem = posixpath.basename(config_path).removesuffix(".json")
            if len(stem) == 64 and stem != digest[7:]:
                raise CorruptContent(f'cannot load archive: config "{config_path}" does not match its digest')
            yield _Found(
                tuple(entry.get("RepoTags") or ()),
                digest,
                config,
                tuple(_Layer(str(layer), "") for layer in layers),
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptContent(f"cannot load archive: its manifest.json is malformed: {error!r}") from error


def _choose(images: list[_Found], ref: str, path: str) -> _Found:
    merged: dict[str, _Found] = {}
    for image in images:
        known = merged.get(image.digest)
        names = tuple(dict.fromkeys((*known.names, *image.names))) if known else image.names
        merged[image.digest] = _Found(names, image.digest, image.config, image.layers)
    listed = ", ".join(", ".join(image.names) or image.digest for image in merged.values())
    fitting = [
        image
        for image in merged.values()
        if not ref or oci.answers_to(image.names, ref) or ref in (image.digest, digest_of(image.config))
    ]
    if not merged:
        raise InvalidSpec(f'cannot load archive "{path}": it holds no image for {oci.host_platform()}')
    if not fitting:
        raise InvalidSpec(f'cannot load archive "{path}": it has no image "{ref}"', f"it has {listed}")
    if len(fitting) > 1:
        raise InvalidSpec(f'cannot load archive "{path}": it holds {len(fitting)} images', f"choose one of {listed}")
    return fitting[0]


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _blob(archive: _Archive, descriptor: oci.Descriptor) -> bytes:
    raw = _read(archive, _blob_path(descriptor.digest))
    if len(raw) != descriptor.size or digest_of(raw) != descriptor.digest:
        raise CorruptContent(f'cannot load archive: blob "{descriptor.digest}" does not match its digest and size')
    return raw


def _read(archive: _Archive, path: str) -> bytes:
    with archive.open(path) as file:
        data = file.read(oci.LONGEST_DOCUMENT + 1)
    if len(data) > oci.LONGEST_DOCUMENT:
        raise CorruptContent(f'cannot load archive: "{path}" is too long')
    return data


# ---- where its files are ----------------------------------------------------------------------------------------


class _Directory:
    def __init__(self, path: str) -> None:
        self._path = path

    def _inside(self, path: str) -> str:
        clean = posixpath.normpath(path)
        if clean.startswith(("/", "..")):
            raise CorruptContent(f'cannot load archive: it names "{path}", which lies outside of it')
        return f"{self._path}/{clean}"

    def has(self, path: str) -> bool:
        return os.path.isfile(self._inside(path))

    def open(self, path: str) -> IO[bytes]:
        try:
            return open(self._inside(path), "rb")
        except (FileNotFoundError, IsADirectoryError):
            raise CorruptContent(f'cannot load archive: "{path}" is missing from it') from None


class _Tar:
    def __init__(self, fileobj: IO[bytes], path: str) -> None:
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            self._tar = tarfile.open(fileobj=fileobj, mode="r:")
            for member in self._tar:
                self._members[posixpath.normpath(member.name)] = member
                if len(self._members) > _MOST_MEMBERS:
                    raise CorruptContent(f'cannot load archive "{path}": it has too many members')
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise InvalidSpec(
                f'cannot load archive "{path}": {error}', "give a tar, plain or compressed with gzip or zstd"
            ) from error

    def has(self, path: str) -> bool:
        return posixpath.normpath(path) in self._members

    def open(self, path: str) -> IO[bytes]:
        clean = posixpath.normpath(path)
        for _ in range(8):  # docker before 1.10 links layers that several images share
            member = self._members.get(clean)
            if member is None or not (member.issym() or member.islnk()):
                break
            folder = posixpath.dirname(clean) if member.issym() else ""
            clean = posixpath.normpath(posixpath.join(folder, member.linkname))
        else:
            member = None
        file = self._tar.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise CorruptContent(f'cannot load archive: "{path}" is missing from it')
        return file


@contextmanager
def _opened(store: ImageStore, path: str) -> Iterator[_Archive]:
    with _reading(path):
        if os.path.isdir(path):
            yield _Directory(path)
            return
        with open(path, "rb") as file:
            magic = file.read(4)
            file.seek(0)
            if not _is_compressed(magic):
                yield _Tar(file, path)
                return
            # random access needs the tar itself
            with store.ingest() as ingest:
                plain = f"{ingest.path}/archive.tar"
                with translating(f'load archive "{path}"'), open(plain, "wb") as target:
                    for chunk in decompressed(file):
                        target.write(chunk)
                with open(plain, "rb") as whole:
                    yield _Tar(whole, path)


def _is_compressed(magic: bytes) -> bool:
    return magic[:2] == b"\x1f\x8b" or magic[:3] == b"BZh" or magic in (b"\x28\xb5\x2f\xfd", b"\xfd7zX")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    with translating(f'load archive "{path}"'):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.isdir(path):
                raise InvalidSpec(
                    f'cannot load archive "{path}": it has no index.json', "give an OCI layout"
                ) from error
            raise NotFound(f'cannot load archive "{path}": there is no such file') from error
        except tarfile.TarError as error:
            raise CorruptContent(f'cannot load archive "{path}": {error}') from error
