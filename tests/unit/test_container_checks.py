"""Specs that nobody may make a container of, whichever way they came."""

import pytest

from runtime import api
from runtime.container.checks import check_spec
from runtime.container.spec import signal_number
from runtime.container.users import resolve_user
from runtime.errors import InvalidSpec

CONFIG = {"Cmd": ["serve"]}
DIGEST = "0" * 64


def make(**fields: object) -> api.ContainerSpec:
    return api.ContainerSpec(**{"name": "shop/web-1", "image": "i", **fields})  # type: ignore[arg-type]


def test_an_ordinary_spec_passes() -> None:
    check_spec(
        make(
            hostname="web-1", domainname="example.org", extra_hosts={"db_1": "10.0.0.9", "me": "host-gateway"},
            dns=("1.1.1.1", "fd00::1"), env={"A": "two\nlines"}, ports=(api.Port(80, 0, host_ip="::1"),),
            networks=(api.Attachment("n", ("web", "web_1"), "10.1.1.4", "", "02:00:00:00:00:01"),),
            mounts=(api.Mount("tmpfs", "/tmp", tmpfs_options=("noexec", "size=1m")), api.Mount("volume", "/v", "v")),
            files=(api.File("/run/secrets/a", DIGEST, True, 1000, 1000, 0o400),), sysctls={"net.core.somaxconn": "9"},
            resources=api.Resources(0.5, 1 << 30, 0, 100), user="app:1000", working_dir="/srv",
        ),
        CONFIG,
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "../../etc"},
        {"name": "a/../b"},
        {"name": "a/b/c"},
        {"name": "a\nb"},
        {"name": "\x1b[31mred"},
        {"name": "a" * 300},
        {"hostname": "web\n6.6.6.6\tbank.example"},
        {"hostname": "web bank.example"},
        {"hostname": "w" * 65},
        {"domainname": "example.org\nnameserver 6.6.6.6"},
        {"extra_hosts": {"db\n6.6.6.6 bank.example": "10.0.0.9"}},
        {"extra_hosts": {"db": "10.0.0.9 bank.example"}},
        {"dns": ("1.1.1.1\noptions debug",)},
        {"networks": (api.Attachment("n", ("web bank",)),)},
        {"networks": (api.Attachment("n", ipv4='10.0.0.1"; flush ruleset'),)},
        {"networks": (api.Attachment("n", mac="02:00"),)},
        {"ports": (api.Port(80, 80, host_ip="0.0.0.0 } ; flush ruleset"),)},
        {"ports": (api.Port(80, 80, "tcp } ; flush ruleset"),)},  # type: ignore[arg-type]
        {"ports": (api.Port(80, 70000),)},
        {"ports": (api.Port(0, 80),)},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": "b\0c"}},
        {"command": ("a\0b",)},
        {"working_dir": "srv"},
        {"sysctls": {"kernel.core_pattern": "|/evil"}},
        {"sysctls": {"net/../kernel/core_pattern": "|/evil"}},
        {"sysctls": {"net.core.somaxconn": "9"}, "network_mode": "host"},
        {"mounts": (api.Mount("tmpfs", "relative"),)},
        {"mounts": (api.Mount("tmpfs", "/a\0b"),)},
        {"mounts": (api.Mount("tmpfs", "/tmp", tmpfs_size=1, tmpfs_options=("noexec,size=100g",)),)},
        {"mounts": (api.Mount("volume", "/v", "v", propagation="sideways"),)},
        {"mounts": (api.Mount("tmpfs", "/tmp"), api.Mount("volume", "/x/../tmp/", "v"))},
        {"mounts": (api.Mount("bind", "/x", "/no/such/source"),)},
        {"files": (api.File("/c", "../../secrets/.key", False),)},
        {"files": (api.File("/c", DIGEST, False, uid=1 << 40),)},
        {"files": (api.File("/c", DIGEST, False, mode=0o100644),)},
        {"resources": api.Resources(cpus=float("nan"))},
        {"resources": api.Resources(memory=-1)},
        {"stop_grace": float("inf")},
    ],
)
def test_a_hostile_spec_is_refused_with_a_message_that_is_safe_to_print(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_spec(make(**fields), CONFIG)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("number", ["9" * 5000, "²", "4294967295", "٣"])
def test_numbers_that_are_no_ids_are_refused_and_passed_over_in_files(number: str) -> None:
    passwd = f"evil:x:{number}:0::/:/bin/sh\ngood:x:7:7::/:/bin/sh\n"
    assert resolve_user("good", (), lambda path: passwd if "passwd" in path else "").uid == 7
    for user, groups in ((number, ()), (f"good:{number}", ()), ("good", (number,))):
        with pytest.raises(InvalidSpec):
            resolve_user(user, groups, lambda path: passwd if "passwd" in path else "")


@pytest.mark.parametrize("name", ["²", "SIGRTMIN+900", "SIGTERM+999", "9" * 5000, "SIGRTMIN+²"])
def test_a_signal_that_the_kernel_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec):
        signal_number(name)
