"""Care of the image store: collect what nothing needs, finish after crashes, verify, measure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runtime.errors import CorruptContent, NotFound
from runtime.image.content import lease, remove_file, sweep
from runtime.image.records import names_in
from runtime.snapshot.overlay import empty_trash, remove_tree

if TYPE_CHECKING:
    from runtime.image.store import ImageStore


def drop(store: ImageStore, ids: set[str], keep: set[str], layers: Iterable[str] | None) -> int:
    """Forget nameless images among `ids`, then those of their layers (and of `layers`; None: of all) nobody needs.

    `keep` holds ids and diff ids that stay. Returns bytes freed; 0 while layers are being made, for then those that no
    image refers to may be just the ones.
    """
    freed = 0
    with lease(store.lease_path, exclusive=True) as idle:
        if not idle:
            return 0
        with store.locked():
            candidates = set(layers or ())
            named = {str(entry["id"]) for _, entry in store.named()}
            for id in ids - named:
                candidates.update(_layers_of(store, id))
                remove_file(f"{store.ids_dir}/{id[7:]}")
                freed += store.blobs.remove(id)
            needed = set(keep)
            for id in store.ids():
                needed.update(_layers_of(store, id))
            if layers is None:
                candidates = {f"sha256:{name}" for name in names_in(store.layout.layers)}
                _forget_origins(store)
            for layer in candidates - needed:
                facts = store.layer_facts(layer)
                freed += int(facts["size"]) if facts else 0
                remove_tree(f"{store.layout.layers}/{layer[7:]}", store.layout.trash)
    return freed


def _layers_of(store: ImageStore, id: str) -> list[str]:
    try:
        layers: list[str] = store.facts(id)["layers"]
    except NotFound:
        return []
    return layers


def _forget_origins(store: ImageStore) -> None:
    for name in names_in(store.origins_dir):
        path = f"{store.origins_dir}/{name}"
        try:
            entry = store.records.read(path)
        except CorruptContent:
            entry = None
        if entry is None or entry["id"] not in store.ids():
            remove_file(path)


def recover(store: ImageStore) -> list[str]:
    layout = store.layout
    with store.locked():
        folders = [store.names_dir, store.ids_dir, store.origins_dir, layout.blobs]
        layers = [f"{layout.layers}/{name}" for name in names_in(layout.layers)]
        removed = sweep(layout, [*folders, *layers])
        for path in layers:
            if not _is_layer(store, path):
                remove_tree(path, layout.trash)
                removed.append(path)
        # a config is written just before, and removed just after, the record that makes it an image
        for name in names_in(layout.blobs):
            if f"sha256:{name}" not in store.ids() and remove_file(f"{layout.blobs}/{name}"):
                removed.append(f"{layout.blobs}/{name}")
    empty_trash(layout.trash)
    return removed


def _is_layer(store: ImageStore, path: str) -> bool:
    try:
        return store.layer_facts(f"sha256:{os.path.basename(path)}") is not None
    except CorruptContent:
        return False


def verify(store: ImageStore, name_or_id: str, deep: bool) -> list[str]:
    problems: list[str] = []
    ids = store.ids()
    if name_or_id:
        # by the name's own record: `get` would refuse an image whose config is damaged
        ids = {store.find_id(name_or_id)}
    else:
        problems += [
            f'image "{name}": its content {entry["id"]} does not exist'
            for name, entry in store.named()
            if entry["id"] not in ids
        ]
    layers: set[str] = set()
    for id in sorted(ids):
        try:
            store.blobs.read(id)
        except (NotFound, CorruptContent) as error:
            problems.append(f'image "{id}": {error.message}')
        layers.update(_layers_of(store, id))
    for layer in sorted(layers):
        problems += _verify_layer(store, layer, deep)
    return problems


def _verify_layer(store: ImageStore, layer: str, deep: bool) -> list[str]:
    facts, folder = store.layer_facts(layer), store.layer_dir(layer)
    if facts is None or not os.path.isdir(folder):
        return [f'layer "{layer}": it does not exist']
    if not deep:
        return []
    if facts["foreign"]:
        # the tar of another tool has another digest than ours of the same files
        files = sum(len(files) + len(folders) for _, folders, files in os.walk(folder))
        return [] if files == facts["files"] else [f'layer "{layer}": it has {files} files instead of {facts["files"]}']
    from runtime.image.layer import layer_digest

    return [] if layer_digest(folder)[0] == layer else [f'layer "{layer}": its files do not match its digest']


def usage(store: ImageStore) -> dict[str, Any]:
    users: dict[str, set[str]] = {}
    images: dict[str, dict[str, Any]] = {}
    for record in store.list():
        image = images.setdefault(record.id, {"id": record.id, "names": [], "layers": list(record.layers)})
        image["names"].extend(record.names)
        image["size"], image["created_at"] = record.size, record.created_at
        for layer in record.layers:
            users.setdefault(layer, set()).add(record.id)
    sizes: dict[str, int] = {}
    for name in names_in(store.layout.layers):
        facts = store.layer_facts(f"sha256:{name}")
        if facts is not None:
            sizes[f"sha256:{name}"] = int(facts["size"])
    for image in images.values():
        shared = sum(sizes.get(layer, 0) for layer in set(image["layers"]) if len(users[layer]) > 1)
        image["shared"], image["unique"] = shared, image["size"] - shared
    needed = {layer for image in images.values() if image["names"] for layer in image["layers"]}
    return {
        "images": list(images.values()),
        "layers": [
            {"diff_id": layer, "size": size, "images": len(users.get(layer, ()))} for layer, size in sizes.items()
        ],
        "total": sum(sizes.values()),
        "reclaimable": sum(size for layer, size in sizes.items() if layer not in needed),
    }
