"""Lays one document over another by Compose's merge rules, marks included."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.manifest.tree import Node

_REPLACED: frozenset[tuple[str, ...]] = frozenset((("command",), ("entrypoint",), ("healthcheck", "test")))
_PAIRS = frozenset(("environment", "labels", "args", "sysctls", "extra_hosts", "driver_opts", "options"))
_NAMES = frozenset(("networks", "depends_on"))
_ONE_OR_LIST = frozenset(("env_file", "dns", "dns_search", "tmpfs"))


def merge_documents(base: Node, over: Node, compose: bool) -> Node:
    """`over` wins; both are whole documents (a Compose file, or a native document with `spec`)."""
    return _merge(base, over, (), compose)


def lay_over_defaults(defaults: Node, spec: Node) -> Node:
    """A service's attributes over the stack's defaults."""
    return _merge(defaults, spec, ("spec",), False)


def drop_directives(node: Node) -> Node:
    """What `!reset` removes is gone; `!override` has done its work."""
    if isinstance(node.value, dict):
        return Node(
            {key: drop_directives(item) for key, item in node.value.items() if item.directive != "reset"},
            node.mark, node.key_mark,
        )  # fmt: skip
    if isinstance(node.value, list):
        return Node(
            [drop_directives(item) for item in node.value if item.directive != "reset"], node.mark, node.key_mark
        )
    return node


def _within(path: tuple[str, ...], compose: bool) -> tuple[str, ...]:
    """The path inside a service, () elsewhere."""
    if compose:
        return path[2:] if path[:1] == ("services",) else ()
    return path[1:] if path[:1] == ("spec",) else ()


def _merge(base: Node, over: Node, path: tuple[str, ...], compose: bool) -> Node:
    if over.directive == "reset":
        return over
    if over.directive == "override" or base.directive == "reset":
        return over
    inside = _within(path, compose)
    last = path[-1] if path else ""
    if inside in _REPLACED:
        return over
    if inside == ("build",):
        base, over = _long(base, "context"), _long(over, "context")
    elif last in _PAIRS and path:
        base, over = _pairs_to_mapping(base), _pairs_to_mapping(over)
    elif len(inside) == 1 and last in _NAMES:
        base, over = _names_to_mapping(base), _names_to_mapping(over)
    elif len(inside) == 1 and last in _ONE_OR_LIST:
        base, over = _to_list(base), _to_list(over)
    elif inside == ("logging",) and (base.text("driver") or "json-file") != (
        over.text("driver") or base.text("driver") or "json-file"
    ):
        return over
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        merged = dict(base.value)
        for key, item in over.value.items():
            merged[key] = _merge(merged[key], item, (*path, key), compose) if key in merged else item
        return Node(merged, over.mark, over.key_mark or base.key_mark)
    if isinstance(base.value, list) and isinstance(over.value, list):
        return Node(_append(base.value, over.value, inside), over.mark, over.key_mark or base.key_mark)
    if over.value is None and isinstance(base.value, dict | list):
        return base
    return over


def _append(base: list[Node], over: list[Node], inside: tuple[str, ...]) -> list[Node]:
    """Entries that mean the same place are replaced, the rest is appended."""
    identities: dict[tuple[str, ...], Callable[[Node], object]] = {
        ("ports",): _port_identity,
        ("volumes",): _mount_identity,
        ("configs",): _file_identity,
        ("secrets",): _file_identity,
    }
    identify = identities.get(inside)
    if identify is None:
        known = [item.value for item in base]
        return [*base, *(item for item in over if isinstance(item.value, dict | list) or item.value not in known)]
    result: dict[object, Node] = {}
    for item in (*base, *over):
        result[identify(item)] = item
    return list(result.values())


def _port_identity(item: Node) -> object:
    if isinstance(item.value, dict):
        parts = [item.get(key) for key in ("host_ip", "published", "target", "protocol")]
        host_ip, published, target, protocol = (str(part.value) if part is not None else "" for part in parts)
        return (host_ip, published, target, protocol or "tcp")
    text, _, protocol = str(item.value).partition("/")
    rest, _, target = text.rpartition(":")
    host_ip, _, published = rest.rpartition(":")
    return (host_ip, published, target, protocol or "tcp")


def _mount_identity(item: Node) -> object:
    if isinstance(item.value, dict):
        target = item.text("target")
        return target.rstrip("/") if target else id(item)
    parts = str(item.value).split(":")
    return parts[1 if len(parts) > 1 else 0].rstrip("/")


def _file_identity(item: Node) -> object:
    if isinstance(item.value, dict):
        return item.text("target") or item.text("source") or id(item)
    return item.value if isinstance(item.value, str) else id(item)


def _long(node: Node, key: str) -> Node:
    if not isinstance(node.value, str):
        return node
    return Node({key: Node(node.value, node.mark, node.mark)}, node.mark, node.key_mark)


def _to_list(node: Node) -> Node:
    if node.value is None or isinstance(node.value, list):
        return node
    return Node([node], node.mark, node.key_mark)


def _names_to_mapping(node: Node) -> Node:
    if not isinstance(node.value, list) or not all(isinstance(item.value, str) for item in node.value):
        return node
    return Node({item.value: Node({}, item.mark, item.mark) for item in node.value}, node.mark, node.key_mark)


def _pairs_to_mapping(node: Node) -> Node:
    if not isinstance(node.value, list) or not all(isinstance(item.value, str) for item in node.value):
        return node
    mapping: dict[str, Node] = {}
    for item in node.value:
        key, equals, text = item.value.partition("=")
        if not equals and ":" in key:
            key, equals, text = item.value.partition(":")
        mapping[key] = Node(text if equals else None, item.mark, item.mark)
    return Node(mapping, node.mark, node.key_mark)
