"""From what a person types (a name, the start of an id, STACK/SERVICE-1) to the object that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from reconciler.cli.errors import FAILED, CommandFailed, describe, say_error
from reconciler.labels import LABEL_INDEX, LABEL_RESOURCE, LABEL_STACK

if TYPE_CHECKING:
    from runtime.api import ContainerState, ImageInfo, Labels, NetworkInfo, Snapshot, VolumeInfo


def resource_of(labels: Labels) -> str:
    """The resource's name without its kind, "" for an object made by hand."""
    return labels.get(LABEL_RESOURCE, "").rpartition("/")[2]


def path_of(labels: Labels) -> str:
    """`STACK/SERVICE-1`, "" for an object made by hand."""
    stack, resource, index = labels.get(LABEL_STACK, ""), resource_of(labels), labels.get(LABEL_INDEX, "")
    if not stack or not resource:
        return ""
    return f"{stack}/{resource}-{index}" if index else f"{stack}/{resource}"


def find_container(snapshot: Snapshot, ref: str) -> ContainerState:
    """By full id, name or STACK/SERVICE-1 first; then by STACK/SERVICE and the start of an id, if only one fits."""
    for container in snapshot.containers:
        if ref in (container.id, container.name, path_of(container.labels)):
            return container
    near = [c for c in snapshot.containers if len(ref) >= 2 and c.id.startswith(ref)]
    if not near and "/" in ref:
        near = members(snapshot.containers, ref)
    if len(near) == 1:
        return near[0]
    if near:
        names = ", ".join(sorted(c.name for c in near))
        raise CommandFailed(f'cannot find container "{ref}": it fits {len(near)} containers ({names})')
    raise CommandFailed(
        f'cannot find container "{ref}": no such container', hint="`holdfast container ls -a` lists them"
    )


def members(containers: Iterable[ContainerState], ref: str) -> list[ContainerState]:
    """Containers of `STACK` , `STACK/SERVICE` or `STACK/SERVICE-1`, in order of their names."""
    stack, _, resource = ref.partition("/")
    kind, _, name = resource.rpartition("/")
    found = [
        c
        for c in containers
        if c.labels.get(LABEL_STACK) == stack
        and (not kind or c.labels.get(LABEL_RESOURCE, "").startswith(kind + "/"))
        and (not name or resource_of(c.labels) == name or path_of(c.labels) == f"{stack}/{name}")
    ]
    return sorted(found, key=lambda c: (resource_of(c.labels), int(c.labels.get(LABEL_INDEX) or 0), c.created_at))


def require_members(snapshot: Snapshot, ref: str) -> list[ContainerState]:
    stack, _, resource = ref.partition("/")
    if not stack or not resource:
        raise CommandFailed(f'cannot find service "{ref}": name it STACK/SERVICE', exit_code=2)
    found = members(snapshot.containers, ref)
    if found:
        return found
    in_stack = sorted({resource_of(c.labels) for c in snapshot.containers if c.labels.get(LABEL_STACK) == stack})
    if in_stack:
        hint = f'stack "{stack}" runs: {", ".join(in_stack)}'
    else:
        stacks = sorted({c.labels[LABEL_STACK] for c in snapshot.containers if LABEL_STACK in c.labels})
        hint = f"stacks with containers: {', '.join(stacks)}" if stacks else "nothing runs on this root"
    raise CommandFailed(f'cannot find service "{ref}": it has no containers', hint=hint)


def find_image(snapshot: Snapshot, ref: str) -> ImageInfo:
    bare = ref.removeprefix("sha256:")
    for image in snapshot.images:
        if ref in image.names or f"{ref}:latest" in image.names or bare == image.id.removeprefix("sha256:"):
            return image
    near = [i for i in snapshot.images if len(bare) >= 4 and i.id.removeprefix("sha256:").startswith(bare)]
    if len(near) == 1:
        return near[0]
    cause = f"it fits {len(near)} images" if near else "no such image"
    raise CommandFailed(f'cannot find image "{ref}": {cause}', hint="`holdfast image ls` lists them")


def find_network(snapshot: Snapshot, name: str) -> NetworkInfo:
    for network in snapshot.networks:
        if network.name == name:
            return network
    raise CommandFailed(f'cannot find network "{name}": no such network', hint="`holdfast network ls` lists them")


def find_volume(snapshot: Snapshot, name: str) -> VolumeInfo:
    for volume in snapshot.volumes:
        if volume.name == name:
            return volume
    raise CommandFailed(f'cannot find volume "{name}": no such volume', hint="`holdfast volume ls` lists them")


def for_each(refs: Sequence[str], act: Callable[[str], None], show: bool = True) -> None:
    """Do `act` for every name and print the names that worked; what failed is told at the end as one failure."""
    failed = 0
    for ref in refs:
        try:
            act(ref)
        except Exception as error:
            message, _, hint = describe(error)
            say_error(message, hint)
            failed += 1
        else:
            if show:
                print(ref, flush=True)
    if failed:
        raise SilentFailure(FAILED)


class SilentFailure(CommandFailed):
    """The command failed and has said so already."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("", exit_code)
