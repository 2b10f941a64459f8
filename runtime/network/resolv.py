"""The texts of a container's /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HOST_RESOLV = "/etc/resolv.conf"
LOCAL = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "ff00::0\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def hosts_text(
    hostname: str, domainname: str, extra_hosts: Mapping[str, str], interfaces: Sequence[Mapping[str, Any]]
) -> str:
    """`host-gateway` as an extra host's address means the host, as seen from the container."""
    lines = [LOCAL]
    own = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    addresses = [address.partition("/")[0] for one in interfaces for address in one["addresses"]]
    lines += [f"{address}\t{own}\n" for address in addresses or ["127.0.1.1"]]
    gateways = [gateway for one in interfaces for gateway in one["gateways"] or one.get("resolvers", ())]
    for name, address in extra_hosts.items():
        if address == "host-gateway":
            lines += [f"{gateway}\t{name}\n" for gateway in gateways[:1] or ["127.0.0.1"]]
        else:
            lines.append(f"{address.strip('[]')}\t{name}\n")
    return "".join(lines)


def resolv_text(host: str, domainname: str, dns: Sequence[str], interfaces: Sequence[Mapping[str, Any]]) -> str:
    """With networks: the names process, which forwards what it does not know. Without: `dns` or the host's."""
    nameservers, rest = parse_resolv(host)
    if interfaces:
        found = [one for interface in interfaces for one in interface.get("resolvers") or interface["gateways"]]
        # IPv4 first; resolvers of the C library use three at most.
        nameservers = sorted(dict.fromkeys(found), key=lambda address: ":" in address)[:3]
        rest = [line for line in rest if not line.startswith("options")] + ["options ndots:0"]
    elif dns:
        nameservers = list(dns)
    if domainname and not any(line.startswith("search") for line in rest):
        rest.insert(0, f"search {domainname}")
    return "".join(f"{line}\n" for line in [*(f"nameserver {one}" for one in nameservers), *rest])


def parse_resolv(text: str) -> tuple[list[str], list[str]]:
    """The name servers, and the search and options lines; everything else is left out."""
    nameservers, rest = [], []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            nameservers.append(words[1])
        elif words[0] in ("search", "options"):
            rest.append(" ".join(words))
        elif words[0] == "domain":
            rest.append(f"search {words[1]}")
    return nameservers, rest


def read_host_resolv() -> str:
    try:
        with open(HOST_RESOLV) as file:
            return file.read()
    except OSError:
        return ""
