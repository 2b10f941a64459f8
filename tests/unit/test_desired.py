"""The canonical form: defaults, spellings that mean the same, edges, names."""

# ruff: noqa: E501 - manifests are quoted as users write them

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from reconciler.desired import fingerprint, from_json, to_json
from reconciler.model import Desired, Key, Need
from runtime.api import Attachment, ContainerSpec, File, HealthCheck, Mount, NetworkSpec, Port, Resources, Ulimit
from tests.support.manifests import compose, load, policy, problems, service, write

NATIVE = "apiVersion: holdfast/v1\nkind: {}\nmetadata: {{name: {}}}\nspec: {}\n---\n"


def native(*documents: tuple[str, str, str]) -> Desired:
    return compose("".join(NATIVE.format(*document) for document in documents))


def test_a_spec_holds_every_field_of_a_container_and_no_other() -> None:
    ours = {"name", "declared", "stop_grace", "health"}
    wanted = {field.name for field in fields(ContainerSpec)} - ours | {"image_fingerprint"}
    assert set(service("")) == wanted


def test_parts_of_a_spec_are_made_of_the_engines_own_fields(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        c="""
        services:
          web:
            image: img
            ports: ["80:80"]
            volumes: ["v:/v"]
            configs: [c]
            ulimits: {nofile: 10}
            healthcheck: {test: ls}
        volumes: {v: }
        configs: {c: {content: x}}
        """,
    )
    desired = load(tmp_path / "s")
    resource = desired.resources[Key("service", "web")]
    spec = resource.spec
    for name, kind in (
        ("ports", Port),
        ("mounts", Mount),
        ("files", File),
        ("ulimits", Ulimit),
        ("networks", Attachment),
    ):
        assert set(spec[name][0]) == {field.name for field in fields(kind)}, name
    assert set(spec["resources"]) == {field.name for field in fields(Resources)}
    assert set(resource.policy["health"]) == {field.name for field in fields(HealthCheck)}
    network = desired.resources[Key("network", "default")].spec
    assert set(network) == {field.name for field in fields(NetworkSpec)} - {"name", "declared"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("command: sleep 'a b'", "command: [sleep, a b]"),
        ("environment: {A: 1, B: 'true'}", "environment: [B=true, A=1]"),
        ("environment: {A: x}", "environment: ['A=${Q:-x}']"),
        (
            "ports: ['8080:80/tcp', 53:53/udp]",
            "ports: [{target: 53, published: '53', protocol: udp}, {target: 80, published: 8080}]",
        ),
        ("ports: ['80-81:80-81']", "ports: ['81:81', '80:80']"),
        ("ports: ['[fd00:0::1]:80:80']", "ports: ['fd00::1:80:80']"),
        ("tmpfs: /x:size=1m", "volumes: [{type: tmpfs, target: /x, tmpfs: {size: 1048576}}]"),
        ("tmpfs: /x/", "tmpfs: [/x]"),
        ("volumes: ['/tmp:/x:ro']", "volumes: [{type: bind, source: /tmp/../tmp, target: /x/., read_only: true}]"),
        ("volumes: [/x]", "volumes: [{type: volume, target: /x}]"),
        ("cap_add: [NET_ADMIN, CAP_SYS_TIME]", "cap_add: [sys_time, net_admin, NET_ADMIN]"),
        ("mem_limit: 1g", "deploy: {resources: {limits: {memory: 1024m}}}"),
        ("cpus: 1", "cpus: '1.0'"),
        ("cpus: 0.5", "deploy: {resources: {limits: {cpus: '0.50'}}}"),
        ("pids_limit: -1", ""),
        ("shm_size: 64m", "shm_size: 67108864"),
        ("ulimits: {nofile: 9}", "ulimits: {nofile: {soft: 9, hard: 9}}"),
        ("sysctls: [net.core.somaxconn=1]", "sysctls: {net.core.somaxconn: 1}"),
        ("labels: [a=b, c]", "labels: {c: '', a: b}"),
        ("extra_hosts: ['a:10.0.0.1']", "extra_hosts: {a: 10.0.0.1}"),
        ("extra_hosts: ['a=::1']", "extra_hosts: ['a:[::1]']"),
        ("expose: [80, '81/udp']", "expose: ['81/udp', 80/tcp]"),
        ("stop_signal: TERM", "stop_signal: 15"),
        ("networks: [default]", "networks: {default: {aliases: [web]}}"),
        ("networks: [default]", ""),
        ("security_opt: ['no-new-privileges']", "security_opt: ['no-new-privileges:true', label=disable]"),
        ("init: true", "init: 'yes'"),
        ("group_add: [b, 1]", "group_add: ['1', b]"),
        ("dns: 1.1.1.1", "dns: [1.1.1.1]"),
        ("env_file: []", "restart: always"),
        ("logging: {options: {max-size: 20m}}", "logging: {driver: local}"),
    ],
)
def test_two_spellings_of_one_wish_are_equal(one: str, other: str) -> None:
    assert service(one) == service(other)
    assert fingerprint(service(one)) == fingerprint(service(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("healthcheck: {test: ls -l, interval: 1m}", "healthcheck: {test: [CMD-SHELL, ls -l], interval: 60s}"),
        ("healthcheck: {disable: true}", "healthcheck: {test: [NONE]}"),
        ("restart: on-failure:3", "deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}"),
        ("restart: always", "deploy: {restart_policy: {}}"),
        ("restart: no", ""),
        ("restart: 'no'", "deploy: {restart_policy: {condition: none}}"),
        ("scale: 3", "deploy: {replicas: 3}"),
        ("stop_grace_period: 1m30s", "stop_grace_period: 90s"),
    ],
)
def test_policies_have_one_form_too(one: str, other: str) -> None:
    assert policy(one) == policy(other)


def test_what_may_change_in_place_is_outside_the_fingerprint() -> None:
    plain = service("")
    assert plain == service("restart: always\nscale: 3\nstop_grace_period: 3s\nhealthcheck: {test: ls}")


@pytest.mark.parametrize(
    "text", ["command: []", "entrypoint: x", "user: a", "labels: [a]", "init: true", "ports: ['80']", "hostname: h"]
)
def test_what_needs_a_new_container_is_inside_the_fingerprint(text: str) -> None:
    assert fingerprint(service("")) != fingerprint(service(text))


def test_an_empty_command_is_not_an_absent_one() -> None:
    assert service("command: []")["command"] == []
    assert service("command: ''")["command"] == []
    assert service("command:")["command"] is None


def test_restart_is_always_in_a_native_service_and_no_in_compose() -> None:
    desired = native(("Service", "a", "{image: img}"))
    assert desired.resources[Key("service", "a")].policy["restart"]["condition"] == "always"
    assert policy("")["restart"]["condition"] == "no"


def test_a_job_is_tried_until_its_backoff_limit() -> None:
    desired = native(("Job", "j", "{image: img}"), ("Job", "k", "{image: img, backoff_limit: 2}"))
    job = desired.resources[Key("job", "j")].policy
    assert job["restart"] == {"condition": "on-failure", "max_attempts": 6, "delay": None, "window": None}
    assert (job["backoff_limit"], job["run_to_completion"], job["completions"]) == (6, True, 1)
    other = desired.resources[Key("job", "k")].policy
    assert other["backoff_limit"] == 2


def test_a_service_awaited_by_its_completion_runs_to_it() -> None:
    desired = native(
        ("Service", "a", "{image: img, depends_on: {b: {condition: service_completed_successfully}}}"),
        ("Service", "b", "{image: img}"),
    )
    b = desired.resources[Key("service", "b")]
    assert (b.policy["run_to_completion"], b.policy["restart"]["condition"]) == (True, "on-failure")
    assert Need(b.key, "completed") in desired.resources[Key("service", "a")].needs


def test_edges_follow_from_references() -> None:
    desired = compose(
        """
        services:
          web:
            image: img
            networks: [front]
            volumes: ["data:/d"]
            configs: [c]
            secrets: [s]
            depends_on:
              db: {condition: service_started, restart: true, required: false}
          db: {image: img}
        networks: {front: }
        volumes: {data: }
        configs: {c: {content: a}}
        secrets: {s: {environment: PW}}
        """,
        {"PW": "x"},
    )
    assert set(desired.resources[Key("service", "web")].needs) == {
        Need(Key("network", "front")),
        Need(Key("volume", "data")),
        Need(Key("config", "c")),
        Need(Key("secret", "s")),
        Need(Key("service", "db"), "started", required=False, restart=True),
    }


def test_an_optional_dependency_may_be_missing() -> None:
    assert not problems("services: {a: {image: img, depends_on: {x: {required: false}}}}")


def test_an_image_of_the_stack_is_an_edge_and_part_of_the_fingerprint() -> None:
    def load_with(packages: str) -> Desired:
        return native(
            ("Stack", "shop", "{}"),
            ("Image", "base", f"{{bootstrap: {{suite: bookworm, packages: [{packages}]}}}}"),
            ("Service", "a", "{image: base}"),
        )

    first, second = load_with("b, a"), load_with("a, b, c")
    service_a = first.resources[Key("service", "a")]
    assert service_a.spec["image"] == "base"
    assert first.resources[Key("image", "base")].object_name == "shop/base"
    assert service_a.spec["image_fingerprint"] == first.resources[Key("image", "base")].fingerprint
    assert Need(Key("image", "base")) in service_a.needs
    assert service_a.fingerprint != second.resources[Key("service", "a")].fingerprint


def test_a_build_is_an_image_and_its_bases_are_edges(tmp_path: Path) -> None:
    def stack(place: Path, page: str) -> Desired:
        write(
            place,
            compose_dot_yaml="""
            name: shop
            services:
              web: {build: ./web, image: "${TAG:-}web:1"}
              other: {image: "web:1"}
              api: {build: {context: ., dockerfile_inline: "FROM base AS x\\nCOPY --from=web:1 / /\\nFROM x\\n", args: {A: , B: 2}}}
            x-holdfast:
              images: {base: {bootstrap: {suite: bookworm}}}
            """,
            web__Dockerfile="ARG B=base\nFROM ${B}\n",
            web__page_dot_html=page,
        )
        return load(place, {"A": "1"})

    desired = stack(tmp_path / "one", "hello")
    web, api = desired.resources[Key("image", "web")], desired.resources[Key("image", "api")]
    assert (web.object_name, api.object_name) == ("web:1", "shop-api")
    assert web.needs == (Need(Key("image", "base")),)
    assert set(api.needs) == {Need(Key("image", "base")), Need(Key("image", "web"))}
    assert api.spec["build"]["images"] == {"base": "shop/base", "web:1": "web:1"}
    assert api.spec["build"]["args"] == {"A": "1", "B": "2"}
    other = desired.resources[Key("service", "other")]
    assert (other.spec["image"], other.spec["image_fingerprint"]) == ("web", web.fingerprint)
    moved, changed = stack(tmp_path / "two", "hello"), stack(tmp_path / "two", "bye")
    assert moved.resources[Key("image", "web")].fingerprint == web.fingerprint
    assert changed.resources[Key("image", "web")].fingerprint != web.fingerprint
    assert changed.resources[Key("image", "api")].fingerprint != moved.resources[Key("image", "api")].fingerprint


def test_a_service_with_a_build_does_not_lend_its_name_to_images(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        c="""
        services:
          redis: {build: {context: ., dockerfile_inline: "FROM scratch"}}
          cache: {image: redis}
          both: {image: "base:latest"}
        x-holdfast: {images: {base: {bootstrap: {suite: bookworm}}}}
        """,
    )
    desired = load(tmp_path / "s", images={"redis": {}})
    own, foreign = desired.resources[Key("service", "redis")], desired.resources[Key("service", "cache")]
    assert (own.spec["image"], foreign.spec["image"], foreign.spec["image_fingerprint"]) == (
        "redis",
        "redis:latest",
        "",
    )
    assert Need(Key("image", "redis")) in own.needs and Need(Key("image", "redis")) not in foreign.needs
    assert desired.resources[Key("service", "both")].spec["image"] == "base"


def test_dockerfiles_that_build_on_each_other_are_named_as_a_chain(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        c="""
        services:
          a: {build: {context: ., dockerfile_inline: "FROM b"}, image: a}
          b: {build: {context: ., dockerfile_inline: "FROM a"}, image: b}
        """,
    )
    with pytest.raises(Exception, match="builds on itself: a -> b -> a"):
        load(tmp_path / "s")


def test_an_absent_base_image_is_named(tmp_path: Path) -> None:
    write(tmp_path / "s", c='services: {a: {build: {context: ., dockerfile_inline: "FROM scratch\\nFROM alpine:3"}}}')
    with pytest.raises(Exception, match='image "alpine:3" is not present'):
        load(tmp_path / "s")


def test_stack_names_and_their_rank(tmp_path: Path) -> None:
    place = tmp_path / "My.Shop_1"
    write(place, c="services: {a: {image: img}}")
    assert load(place).stack == "myshop_1"
    write(place, c="name: two\nservices: {a: {image: img}}")
    assert load(place).stack == "two"
    write(
        place, s="apiVersion: holdfast/v1\nkind: Stack\nmetadata: {name: one}\nspec: {prune: false, deletion_budget: 2}"
    )
    desired = load(place)
    assert (desired.stack, desired.settings.prune, desired.settings.deletion_budget) == ("one", False, 2)


def test_objects_are_named_after_their_stack_or_as_told() -> None:
    desired = compose(
        """
        name: shop
        services: {a: {image: img}}
        networks: {n: , m: {name: mine}}
        volumes: {v: , w: {name: theirs, x-holdfast: {retain: true}}}
        """
    )
    names = {str(key): resource.object_name for key, resource in desired.resources.items()}
    assert names == {
        "network/default": "shop_default",
        "network/m": "mine",
        "network/n": "shop_n",
        "service/a": "",
        "volume/v": "shop_v",
        "volume/w": "theirs",
    }
    assert desired.resources[Key("volume", "w")].policy == {"retain": True}


def test_external_networks_and_volumes_must_exist() -> None:
    assert problems("services: {a: {image: img}}\nnetworks: {n: {external: true, name: x}}\n") == [
        '2:12: network "n": external network "x" does not exist'
    ]


def test_every_service_answers_to_its_name_and_aliases() -> None:
    spec = service("container_name: box\nnetworks: {default: {aliases: [www, api], ipv4_address: 10.0.0.9}}")
    assert spec["networks"] == [
        {
            "aliases": ["api", "box", "web", "www"],
            "ipv4": "10.0.0.9",
            "ipv6": "",
            "mac": "",
            "network": spec["networks"][0]["network"],
        }
    ]


def test_networks_come_by_priority_then_name() -> None:
    desired = compose(
        "name: s\nservices: {a: {image: img, networks: {x: , y: {priority: 5}, b: }}}\nnetworks: {x: , y: , b: }\n"
    )
    spec = desired.resources[Key("service", "a")].spec
    assert [item["network"] for item in spec["networks"]] == ["s_y", "s_b", "s_x"]


def test_no_network_without_network_mode() -> None:
    assert service("network_mode: none")["networks"] == []
    assert service("network_mode: host")["network_mode"] == "host"


def test_network_settings() -> None:
    desired = compose(
        """
        name: s
        services: {a: {image: img}}
        networks:
          n:
            internal: true
            enable_ipv6: true
            driver_opts: {com.docker.network.driver.mtu: 1400, com.docker.network.bridge.name: br9}
            ipam: {config: [{subnet: "fd00:1::/64"}, {subnet: 10.9.0.0/24, gateway: 10.9.0.9, ip_range: 10.9.0.128/25}]}
        """
    )
    assert desired.resources[Key("network", "n")].spec == {
        "bridge_name": "br9",
        "gateways": ["10.9.0.9"],
        "internal": True,
        "ip_range": "10.9.0.128/25",
        "ipv6": True,
        "labels": {},
        "masquerade": True,
        "mtu": 1400,
        "subnets": ["10.9.0.0/24", "fd00:1::/64"],
    }


def test_environment_files_lie_beneath_environment(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        c="""
        services:
          web:
            image: img
            env_file: [a.env, {path: none.env, required: false}, {path: b.env, format: raw}]
            environment: {C: own, HOST_ONLY: , MISSING: }
        """,
        a_dot_env="A=1\nB=${A}2\nC=file\n",
        b_dot_env="D='$x'\n",
    )
    spec = load(tmp_path / "s", {"HOST_ONLY": "h"}).resources[Key("service", "web")].spec
    assert spec["env"] == {"A": "1", "B": "12", "C": "own", "D": "'$x'", "HOST_ONLY": "h"}


def test_configs_and_secrets_are_files_with_their_digest(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        c="""
        services:
          web:
            image: img
            configs: [c, {source: d, target: /etc/d.conf, uid: "5", gid: "6", mode: 0440}]
            secrets: [s, {source: s, target: other}]
        configs: {c: {content: "x$$y"}, d: {file: ./d.txt}}
        secrets: {s: {file: pw}}
        """,
        d_dot_txt="dee",
        pw_dot_txt="",
    )
    (tmp_path / "s" / "pw").write_bytes(b"hunter2\xff")
    desired = load(tmp_path / "s")
    spec = desired.resources[Key("service", "web")].spec
    assert [(f["target"], f["secret"], f["uid"], f["gid"], f["mode"]) for f in spec["files"]] == [
        ("/c", False, 0, 0, 0o444),
        ("/etc/d.conf", False, 5, 6, 0o440),
        ("/run/secrets/other", True, 0, 0, 0o444),
        ("/run/secrets/s", True, 0, 0, 0o444),
    ]
    contents = {content for content, _ in desired.files.values()}
    assert contents == {b"x$y", b"dee", b"hunter2\xff"}
    assert "hunter2" not in repr(desired) and "hunter2" not in str(to_json(desired))


def test_a_changed_secret_changes_the_service(tmp_path: Path) -> None:
    write(
        tmp_path / "s", c="services: {web: {image: img, secrets: [s]}}\nsecrets: {s: {file: pw.txt}}\n", pw_dot_txt="1"
    )
    before = load(tmp_path / "s").resources[Key("service", "web")].fingerprint
    write(tmp_path / "s", pw_dot_txt="2")
    assert load(tmp_path / "s").resources[Key("service", "web")].fingerprint != before


def test_stack_defaults_lie_beneath_every_service() -> None:
    desired = native(
        (
            "Stack",
            "s",
            "{defaults: {restart: unless-stopped, environment: {TZ: UTC, A: d}, logging: {options: {max-size: 1m}}}}",
        ),
        ("Service", "a", "{image: img, environment: [A=own]}"),
        ("Job", "j", "{image: img}"),
    )
    a, j = desired.resources[Key("service", "a")], desired.resources[Key("job", "j")]
    assert a.spec["env"] == {"A": "own", "TZ": "UTC"}
    assert (a.policy["restart"]["condition"], a.spec["log_max_size"]) == ("unless-stopped", 1 << 20)
    assert (j.spec["env"], j.policy["restart"]["condition"]) == ({"A": "d", "TZ": "UTC"}, "on-failure")


def test_json_form_brings_back_all_but_secrets() -> None:
    desired = compose(
        "services: {a: {image: img, configs: [c], secrets: [s], volumes: ['/tmp:/t:z']}}\n"
        "configs: {c: {content: x}}\nsecrets: {s: {environment: PW}}\n",
        {"PW": "hush"},
    )
    again = from_json(to_json(desired))
    assert again.resources == desired.resources
    assert (again.settings, again.warnings, again.bind_sources) == (
        desired.settings,
        desired.warnings,
        desired.bind_sources,
    )
    assert list(again.files.values()) == [(b"x", False)]
    assert desired.warnings and "SELinux" in str(desired.warnings[0])


def test_bind_sources_are_listed_with_their_marks(tmp_path: Path) -> None:
    write(tmp_path / "s", c="services: {a: {image: img, volumes: ['./d:/d', '~:/h']}}\n", d__x_dot_txt="")
    desired = load(tmp_path / "s", {"HOME": str(tmp_path)})
    assert [path for path, _ in desired.bind_sources] == [f"{tmp_path}/s/d", str(tmp_path)]
    assert str(desired.bind_sources[0][1]).endswith("c.yaml:1:38")
