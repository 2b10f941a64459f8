"""`holdfast network …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.engine import engine
from reconciler.cli.names import find_network, for_each
from reconciler.cli.output import iso_time, json_option, print_json, print_table, quiet_option
from reconciler.cli.values import parse_pairs
from reconciler.labels import LABEL_STACK

if TYPE_CHECKING:
    from runtime.api import NetworkInfo


@click.group(help="Create and look at networks.")
def network() -> None:
    pass


def network_object(info: NetworkInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "stack": info.labels.get(LABEL_STACK),
        "bridge": info.bridge,
        "subnets": list(info.subnets),
        "gateways": list(info.gateways),
        "internal": info.internal,
        "members": list(info.members),
        "created": iso_time(info.created_at),
        "labels": dict(info.labels),
    }


@network.command()
@quiet_option("names")
@json_option
def ls(quiet: bool, as_json: bool) -> None:
    """List networks."""
    found = sorted(engine().snapshot(deep=False).networks, key=lambda info: info.name)
    if quiet:
        for info in found:
            print(info.name)
    elif as_json:
        print_json([network_object(info) for info in found])
    else:
        rows = [(i.name, i.bridge, ", ".join(i.subnets), "yes" if i.internal else "no", len(i.members)) for i in found]
        print_table(("NAME", "BRIDGE", "SUBNETS", "INTERNAL", "MEMBERS"), rows)


@network.command()
@click.argument("networks", nargs=-1, required=True)
@json_option
def inspect(networks: tuple[str, ...], as_json: bool) -> None:
    """Show everything about networks as JSON."""
    snapshot = engine().snapshot()
    print_json([
        {**network_object(info), "spec": info.declared, "damage": [asdict(damage) for damage in info.damage]}
        for info in (find_network(snapshot, name) for name in networks)
    ])  # fmt: skip


@network.command()
@click.argument("name")
@click.option("-d", "--driver", type=click.Choice(["bridge"]), default="bridge", help="Kind of network.")
@click.option("--subnet", multiple=True, metavar="CIDR", help="Subnet; default: a free one.")
@click.option("--gateway", multiple=True, metavar="IP", help="Gateway address in the subnet.")
@click.option("--ip-range", default="", metavar="CIDR", help="Give out addresses from this part only.")
@click.option("--internal", is_flag=True, help="No way out.")
@click.option("--ipv6", is_flag=True, help="IPv6 as well.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="mtu=N, bridge-name=NAME, masquerade=true|false.")
@json_option
def create(
    *,
    name: str,
    driver: str,
    subnet: tuple[str, ...],
    gateway: tuple[str, ...],
    ip_range: str,
    internal: bool,
    ipv6: bool,
    label: tuple[str, ...],
    opt: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a network: a bridge with addresses, names and rules."""
    from runtime.api import NetworkSpec

    found = parse_pairs(opt, "--opt")
    options = {key.removeprefix("com.docker.network.").removeprefix("driver."): found[key] for key in found}
    if unknown := set(options) - _OPTIONS:
        raise click.BadParameter(f'no option "{sorted(unknown)[0]}"', param_hint="--opt")
    mtu = options.get("mtu", "1500")
    if not mtu.isdigit():
        raise click.BadParameter(f'mtu "{mtu}" is no number', param_hint="--opt")
    bridge = options.get("bridge-name") or options.get("bridge.name", "")
    masquerade = (options.get("masquerade") or options.get("bridge.enable_ip_masquerade", "true")).lower() != "false"
    info = engine().create_network(
        NetworkSpec(
            name,
            parse_pairs(label, "--label"),
            None,
            internal,
            subnet,
            gateway,
            ip_range,
            ipv6,
            int(mtu),
            bridge,
            masquerade,
        )
    )
    if as_json:
        print_json([network_object(info)])
    else:
        print(info.name)


_OPTIONS = {"mtu", "bridge-name", "bridge.name", "masquerade", "bridge.enable_ip_masquerade"}


@network.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Say nothing when it does not exist.")
def rm(networks: tuple[str, ...], force: bool) -> None:
    """Remove networks that no running container uses."""

    def remove(name: str) -> None:
        if not force:
            find_network(engine().snapshot(deep=False), name)
        engine().remove_network(name)

    for_each(networks, remove)
