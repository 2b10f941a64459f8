"""Tiny images made in milliseconds, and the archive forms in which images travel."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from runtime.image.store import ImageRecord, ImageStore

BUSYBOX = "/usr/bin/busybox"
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\n"
)
GROUP = "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n"


@cache
def _applets() -> tuple[str, ...]:
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    return tuple(name for name in listed.stdout.split() if name != "busybox")


def busybox_tree(path: str) -> None:
    """A root filesystem in `path`: static busybox with all its applets, users, /tmp, /home/app."""
    for folder in ("bin", "dev", "etc", "home", "home/app", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var"):
        os.makedirs(f"{path}/{folder}", exist_ok=True)
    os.chmod(f"{path}/tmp", 0o1777)
    os.chown(f"{path}/home/app", 1000, 1000)
    shutil.copy(BUSYBOX, f"{path}/bin/busybox")
    for applet in _applets():
        os.symlink("busybox", f"{path}/bin/{applet}")
    for name, text in (("passwd", PASSWD), ("group", GROUP)):
        with open(f"{path}/etc/{name}", "w") as file:
            file.write(text)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.utime(f"{folder}/{name}", (0, 0), follow_symlinks=False)  # the same image whenever it is made


def image_config(**config: Any) -> dict[str, Any]:
    """An OCI image config for this machine; keywords are fields of its `config` object (Env, Cmd, …)."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return {"architecture": machine, "os": "linux", "config": config}


def busybox_image(store: ImageStore, name: str = "busybox", **config: Any) -> ImageRecord:
    """The image most tests run: `Cmd` is a shell; keywords override fields of the image's `config`."""
    fields = {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"], **config}
    with store.lease(), store.ingest() as ingest:
        busybox_tree(ingest.tree)
        layer = store.add_layer_from_dir(ingest.tree)
        return store.commit(image_config(**fields), [layer], name)


def layer_tar(files: Mapping[str, bytes | None]) -> bytes:
    """A plain tar of files; a name ending in a slash is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(content or b"")
                info.mode = 0o755 if (content or b"").startswith(b"\x7fELF") else 0o644
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _as_tar(path: str, members: Mapping[str, bytes], prefix: str, compress: bool) -> None:
    data = layer_tar({prefix + name: content for name, content in members.items()})
    with open(path, "wb") as file:
        file.write(gzip.compress(data, 1) if compress else data)


def _oci_members(images: Mapping[str, Sequence[bytes]], gzip_layers: bool) -> dict[str, bytes]:
    members: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    manifests = []

    def keep(data: bytes, media_type: str) -> dict[str, Any]:
        members[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    for ref, layers in images.items():
        config = image_config(Cmd=["/hello"], Labels={"ref": ref})
        config["rootfs"] = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
        suffix = "+gzip" if gzip_layers else ""
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": keep(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                keep(
                    gzip.compress(layer, 1, mtime=0) if gzip_layers else layer,
                    f"application/vnd.oci.image.layer.v1.tar{suffix}",
                )
                for layer in layers
            ],
        }
        descriptor = keep(json.dumps(manifest).encode(), str(manifest["mediaType"]))
        manifests.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": ref}})
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return members


def write_oci_layout(path: str, images: Mapping[str, Sequence[bytes]], gzip_layers: bool = True) -> None:
    """An OCI layout directory; `images` maps a ref name to its layers as plain tars."""
    for name, content in _oci_members(images, gzip_layers).items():
        os.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
        with open(f"{path}/{name}", "wb") as file:
            file.write(content)


def write_oci_tar(
    path: str,
    images: Mapping[str, Sequence[bytes]],
    prefix: str = "",
    compress: bool = False,
    replace: Mapping[str, bytes] | None = None,
) -> None:
    """The same as one tar; `replace` swaps members for damaged ones."""
    _as_tar(path, {**_oci_members(images, True), **(replace or {})}, prefix, compress)


def write_docker_save(
    path: str,
    images: Mapping[str, Sequence[bytes]],
    prefix: str = "",
    compress: bool = False,
    replace: Mapping[str, bytes] | None = None,
) -> None:
    """What `docker save` writes: manifest.json, configs, layers; `images` maps a repo tag to plain layer tars."""
    members: dict[str, bytes] = {}
    manifest = []
    for tag, layers in images.items():
        config = image_config(Cmd=["/hello"], Labels={"ref": tag})
        config["rootfs"] = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
        raw = json.dumps(config).encode()
        members[f"{digest(raw)[7:]}.json"] = raw
        paths = []
        for layer in layers:
            members[f"{digest(layer)[7:]}/layer.tar"] = layer
            paths.append(f"{digest(layer)[7:]}/layer.tar")
        manifest.append({"Config": f"{digest(raw)[7:]}.json", "RepoTags": [tag], "Layers": paths})
    members["manifest.json"] = json.dumps(manifest).encode()
    _as_tar(path, {**members, **(replace or {})}, prefix, compress)
