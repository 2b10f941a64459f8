"""Every kind of bad input is named with its place, all of them at once."""

# ruff: noqa: E501 - manifests are quoted as users write them

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.model import InputError
from tests.support.manifests import compose, load, problems, write

SERVICE = "services:\n  web:\n    image: img\n    "


def attribute(text: str) -> list[str]:
    """Problems of one attribute of a service, which begins at 4:5."""
    return problems(SERVICE + text + "\n")


def test_all_problems_come_at_once_and_in_order() -> None:
    text = """
        services:
          web:
            imge: img
            image: img
            depends_on: [bd]
            environment: {A: [1]}
            ports: ["80:80", "99999:1"]
            working_dir: $NOPE
          db:
            image: 3
        networks: {n: {internl: true}}
    """
    assert problems(text) == [
        '3:5: service "web": unknown attribute "imge" (did you mean "image"?)',
        '5:18: service "web": depends_on: no service "bd" (did you mean "db"?)',
        '6:22: service "web": environment.A: must be a string, a number, a boolean or empty, not a list',
        '7:22: service "web": ports[1]: port "99999" is out of range (1 to 65535)',
        '8:18: variable "NOPE" is not set',
        '10:12: service "db": image: must be a string, not the number 3: put it in quotes',
        '11:16: network "n": unknown attribute "internl" (did you mean "internal"?)',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("imag: x", 'unknown attribute "imag" (did you mean "image"?)'),
        ("gpus: all", 'attribute "gpus" is not supported yet'),
        ("cpu_percent: 5", 'attribute "cpu_percent" cannot be used here: it exists on Windows only'),
        ("models: [x]", 'attribute "models" cannot be used here: there is no model runner'),
        ("extends: {service: x}", 'attribute "extends" is not supported yet'),
        ("x-holdfast: {a: 1}", 'unknown attribute "x-holdfast"'),
        (
            "deploy: {placement: {}}",
            'deploy: attribute "placement" cannot be used here: there is no second node to place on',
        ),
        ("build: {context: ./none, cache_from: [x]}", 'build: attribute "cache_from" is not supported yet'),
        (
            "deploy: {update_config: {ordr: x}}",
            'deploy.update_config: unknown attribute "ordr" (did you mean "order"?)',
        ),
    ],
)
def test_unknown_and_unsupported_attributes(text: str, problem: str) -> None:
    assert f'service "web": {problem}' in [said.partition(": ")[2] for said in attribute(text)]


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("command: [a, 2]", "4:18", "command[1]: must be a string, not the number 2: put it in quotes"),
        ("command: 'a \"b'", "4:14", "command: cannot be split into words: no closing quotation"),
        ("environment: ['A =1']", "4:19", 'environment[0]: variable "A " has a space around its name'),
        ("environment: 3", "4:18", "environment: must be a mapping or a list of KEY=VALUE, not the number 3"),
        ("labels: {holdfast.stack: x}", "4:30", 'labels.holdfast.stack: label "holdfast.stack": names that begin with'),
        ("ports: ['80:x']", "4:13", 'ports[0]: "x" is not a port or a range of them'),
        ("ports: ['1-3:1-2']", "4:13", 'ports[0]: ranges "1-3" and "1-2" differ in length'),
        (
            "ports: ['8000-8002:80']",
            "4:13",
            'ports[0]: a range of host ports ("8000-8002") for one container port is not',
        ),
        ("ports: ['80:80/sctp']", "4:13", 'ports[0]: protocol "sctp" is not supported: tcp or udp'),
        ("ports: ['[::1]:80:80']", "4:13", "ports[0]: cannot publish on [::1]"),
        ("ports: ['1.2.3:80:80']", "4:13", 'ports[0]: "1.2.3" is not an IP address'),
        ("ports: {a: b}", "4:12", "ports: must be a list, not a mapping"),
        ("volumes: ['a:b']", "4:15", 'volumes[0]: container path "b" must be absolute'),
        ("volumes: ['/a:/']", "4:15", 'volumes[0]: cannot mount over "/"'),
        ("volumes: ['a:/b:rx']", "4:15", 'volumes[0]: unknown mount option "rx"'),
        ("volumes: [{type: image, target: /x}]", "4:22", 'volumes[0].type: volume type "image" is not'),
        ("volumes: [{type: bind, target: /x}]", "4:15", "volumes[0]: a bind mount needs a source"),
        ("volumes: [{target: /x}]", "4:15", 'volumes[0]: attribute "type" is required'),
        ("tmpfs: /a:size=x", "4:12", 'tmpfs: "x" is not a size such as 512k, 64m or 1g'),
        ("healthcheck: {test: [ls]}", "4:25", "healthcheck.test: must begin with CMD, CMD-SHELL or NONE"),
        ("healthcheck: {interval: 5s}", "4:18", "healthcheck: a healthcheck needs a test"),
        (
            "stop_grace_period: 10",
            "4:24",
            'stop_grace_period: "10" is not a duration: add a unit (did you mean "10s"?)',
        ),
        ("stop_signal: SIGTREM", "4:18", 'stop_signal: there is no signal "SIGTREM" (did you mean "SIGTERM"?)'),
        (
            "restart: alway",
            "4:14",
            'restart: must be no, always, unless-stopped or on-failure[:n], not the string "alway"',
        ),
        ("cap_add: [NET_ADMN]", "4:15", 'cap_add[0]: there is no capability "NET_ADMN" (did you mean "NET_ADMIN"?)'),
        ("security_opt: [apparmor=x]", "4:20", 'security_opt[0]: security option "apparmor=x" is not supported yet'),
        ("ulimits: {nofil: 3}", "4:14", 'ulimits: there is no limit "nofil" (did you mean "nofile"?)'),
        ("ulimits: {nofile: {soft: 9, hard: 3}}", "4:23", "ulimits.nofile: soft limit 9 is above the hard limit 3"),
        ("sysctls: {vm.swappiness: 1}", "4:30", 'sysctls.vm.swappiness: kernel setting "vm.swappiness" is shared'),
        ("mem_limit: lots", "4:16", 'mem_limit: "lots" is not a size such as 512k, 64m or 1g'),
        ("cpus: 0.001", "4:11", "cpus: 0.001 CPUs is out of range"),
        ("pids_limit: -2", "4:17", "pids_limit: must be at least -1, not -2"),
        ("read_only: 3", "4:16", "read_only: must be true or false, not the number 3"),
        ("deploy: {replicas: x}", "4:24", 'deploy.replicas: must be an integer, not the string "x"'),
        ("deploy: {mode: global}", "4:20", 'deploy.mode: mode "global" is not supported yet'),
        (
            "deploy: {update_config: {order: start}}",
            "4:37",
            "deploy.update_config.order: must be start-first or stop-first",
        ),
        ("network_mode: 'service:x'", "4:19", 'network_mode: network_mode "service:x" is not supported yet'),
        ("working_dir: a/b", "4:18", 'working_dir: "a/b" must be an absolute path'),
        ("hostname: a b", "4:15", 'hostname: "a b" is not a host name'),
        ("extra_hosts: [x]", "4:18", 'extra_hosts: "x" is not of the form HOST=ADDRESS'),
        ("dns: [1.1.1]", "4:11", 'dns[0]: "1.1.1" is not an IP address'),
        ("logging: {driver: syslog}", "4:23", 'logging.driver: log driver "syslog" is not supported yet'),
        ("secrets: [{source: x, mode: '9'}]", "4:33", 'secrets[0].mode: "9" is not octal permission bits'),
        ("depends_on: {x: {condition: ok}}", "4:33", "depends_on.x.condition: must be service_started"),
        ("networks: [default, default]", "4:25", 'networks[1]: "default" is named twice'),
        ("image: ''", "4:5", 'duplicate key "image"'),
    ],
)
def test_values_that_cannot_be_right(text: str, place: str, problem: str) -> None:
    said = attribute(text)
    wanted = (f'{place}: service "web": {problem}', f"{place}: {problem}")
    assert any(line.startswith(wanted) for line in said), said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("depends_on: [wbe]", '4:18: service "web": depends_on: no service "wbe"'),
        (
            "depends_on:\n      db:\n        condition: service_started",
            '5:7: service "web": depends_on: no service "db"',
        ),
        ("depends_on: [web]", '4:18: service "web": depends_on: it depends on itself'),
        ("networks: [frnt]", '4:16: service "web": networks: no network "frnt"'),
        ("volumes: ['data:/d']", '4:15: service "web": volumes: no volume "data"'),
        ("configs: [c]", '4:15: service "web": configs: no config "c"'),
        ("secrets: [{source: s}]", '4:15: service "web": secrets: no secret "s"'),
        ("volumes: ['/none/such:/d']", '4:15: service "web": volumes: bind source "/none/such" does not exist'),
        ("env_file: none.env", '4:15: service "web": env_file: cannot read'),
        ("tmpfs: [/a, /a/]", '4:17: service "web": tmpfs: two things are mounted at "/a"'),
        (
            "ports: ['80:1', '80:2']",
            '4:21: service "web": ports: host port *:80/tcp is already published by container port 1',
        ),
        (
            "network_mode: host\n    ports: ['80:80']",
            '5:12: service "web": ports: cannot be published with network_mode "host"',
        ),
        (
            "network_mode: none\n    networks: {}",
            '4:19: service "web": network_mode: "none" and networks exclude each other',
        ),
        ("scale: 2\n    container_name: c", '5:21: service "web": container_name: one name cannot serve 2 replicas'),
        (
            "mem_limit: 1g\n    deploy: {resources: {limits: {memory: 2g}}}",
            '4:16: service "web": mem_limit: 1073741824 contradicts',
        ),
        (
            "pull_policy: always",
            '4:18: service "web": pull_policy: "always" is not supported yet: images cannot be pulled',
        ),
        ("security_opt: [seccomp=none.json]", '4:20: service "web": security_opt: there is no file'),
        ("networks: {default: {ipv4_address: '::2'}}", '4:40: service "web": networks: "::2" is not an IPv4 address'),
    ],
)
def test_references_and_contradictions(text: str, problem: str) -> None:
    assert any(said.startswith(problem) for said in attribute(text)), attribute(text)


def test_a_service_needs_an_image_or_a_build() -> None:
    assert problems("services:\n  web:\n    command: x\n") == ['2:3: service "web": needs an image or a build']


def test_a_service_whose_image_is_wrong_is_not_also_told_that_it_needs_one() -> None:
    assert problems("services:\n  web:\n    image: ${NOPE}\n") == ['3:12: variable "NOPE" is not set']


def test_an_absent_foreign_image_says_what_to_do() -> None:
    assert problems("services:\n  web:\n    image: nginx:1.26\n") == [
        '3:12: service "web": image "nginx:1.26" is not present and pulling is not supported yet: '
        "declare an Image (bootstrap, build or archive)"
    ]


def test_one_host_port_wanted_by_two_services_names_both() -> None:
    text = """
        services:
          a: {image: img, ports: ["127.0.0.1:80:1"]}
          b: {image: img, ports: ["80:2"]}
          c: {image: img, ports: ["127.0.0.2:80:1", "80:2/udp"]}
    """
    assert problems(text) == [
        '3:27: service "b": ports: host port *:80/tcp is already published by service "a" at <stdin>:2:27',
        '4:27: service "c": ports: host port 127.0.0.2:80/tcp is already published by service "b" at <stdin>:3:27',
    ]


def test_overlapping_subnets_are_named() -> None:
    text = """
        services: {a: {image: img}}
        networks:
          x: {ipam: {config: [{subnet: 10.1.0.0/16}]}}
          y: {ipam: {config: [{subnet: 10.1.2.0/24}]}}
          z: {ipam: {config: [{subnet: 10.2.0.1/24}]}}
    """
    assert problems(text) == [
        '4:32: network "y": subnet 10.1.2.0/24 overlaps 10.1.0.0/16 of network "x" at <stdin>:3:32',
        '5:32: network "z": ipam.config[0].subnet: "10.2.0.1/24" has bits set outside its prefix '
        '(did you mean "10.2.0.0/24"?)',
    ]


def test_one_name_for_two_resources_marks_both() -> None:
    text = """
        apiVersion: holdfast/v1
        kind: Service
        metadata: {name: web}
        spec: {image: img}
        ---
        apiVersion: holdfast/v1
        kind: Job
        metadata: {name: web}
        spec: {image: img}
        ---
        services: {web: {image: img}}
    """
    assert problems(text) == [
        '8:18: job "web" is declared twice (first at <stdin>:3:18)',
        '11:12: service "web" is declared twice (first at <stdin>:3:18)',
    ]


def test_bad_names_are_refused() -> None:
    text = """
        name: Shop
        services:
          "a b": {image: img}
          -x: {image: img}
        volumes: {x/y: }
    """
    assert [said.partition(": ")[0] for said in problems(text)] == ["1:7", "3:3", "4:3", "5:11"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("apiVersion: apps/v1\nkind: Deployment\n", "1:13: Kubernetes objects are not supported yet (kind Deployment)"),
        (
            "apiVersion: holdfast/v2\nkind: Service\n",
            '1:13: unknown apiVersion "holdfast/v2" (did you mean "holdfast/v1"?)',
        ),
        ("apiVersion: holdfast/v1\nkind: Servce\n", '2:7: unknown kind "Servce" (did you mean "Service"?)'),
        ("apiVersion: holdfast/v1\nkind: CronJob\n", "2:7: kind CronJob is not supported yet"),
        ("kind: Service\n", '1:1: a document with "kind" needs "apiVersion: holdfast/v1"'),
        ("apiVersion: holdfast/v1\nkind: Service\nspec: {}\n", '1:1: service: attribute "metadata" is required'),
        ("- a\n", "1:1: the document must be a mapping"),
        ("include: [x]\nservices: {a: {image: img}}\n", '1:1: attribute "include" is not supported yet'),
        ("servces: {}\n", '1:1: unknown attribute "servces" (did you mean "services"?)'),
        ("services: [a]\n", "1:11: services: must be a mapping, not a list"),
    ],
)
def test_documents_of_the_wrong_kind(text: str, problem: str) -> None:
    assert problem in problems(text)


def test_native_documents_are_named_by_kind_and_name() -> None:
    text = """
        apiVersion: holdfast/v1
        kind: Image
        metadata: {name: base, namespace: x}
        spec: {bootstrap: {suite: bookworm, variant: mini}, archive: a.tar}
    """
    assert problems(text) == [
        '3:24: image "base": metadata: attribute "namespace" cannot be used here: a stack is its own namespace',
        '4:46: image "base": bootstrap.variant: must be minbase, apt, essential, required, important, standard, buildd, '
        'custom or extract, not the string "mini" (did you mean "minbase"?)',
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{}", "needs one of build, bootstrap or archive"),
        ("{pull: nginx}", 'attribute "pull" cannot be used here: images cannot be pulled from registries yet'),
        ("{build: ., archive: x}", "build and archive exclude each other"),
    ],
)
def test_an_image_has_one_origin(spec: str, problem: str) -> None:
    text = f"apiVersion: holdfast/v1\nkind: Image\nmetadata: {{name: i}}\nspec: {spec}\n"
    assert any(problem in said for said in problems(text))


def test_a_source_that_declares_nothing_is_an_error() -> None:
    assert "declares no resource" in problems("name: x\n")[0]
    assert "declares no resource" in problems("apiVersion: holdfast/v1\nkind: Stack\nmetadata: {name: s}\n")[0]


def test_files_of_configs_and_secrets_must_be_there(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        app="""
        services: {a: {image: img, configs: [c], secrets: [s, t]}}
        configs: {c: {file: none.txt}}
        secrets: {s: {environment: NOPE}, t: {file: a, environment: B}}
        """,
    )
    with pytest.raises(InputError) as caught:
        load(tmp_path / "s")
    said = [str(problem).partition("app.yaml:")[2] for problem in caught.value.problems]
    assert said == [
        f'2:21: config "c": file: cannot read "{tmp_path}/s/none.txt": no such file or directory',
        '3:28: secret "s": environment: variable "NOPE" is not set',
        '3:38: secret "t": file and environment exclude each other',
    ]


def test_build_contexts_must_have_a_dockerfile(tmp_path: Path) -> None:
    write(tmp_path / "s", app="services:\n  a: {build: ./none}\n  b: {build: ./empty}\n", empty__x_dot_txt="")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "s")
    assert [str(problem).partition("app.yaml:")[2] for problem in caught.value.problems] == [
        f'2:14: service "a": build: build context "{tmp_path}/s/none" is not a directory',
        f'3:14: service "b": build: build context "{tmp_path}/s/empty": cannot read "Dockerfile": '
        "no such file or directory",
    ]


def test_secret_values_never_stand_in_problems() -> None:
    text = "services: {a: {image: img, secrets: [s]}}\nsecrets: {s: {environment: PW, file: x}}\n"
    assert "hunter2" not in "\n".join(problems(text, {"PW": "hunter2"}))


def test_waiting_for_health_that_nothing_probes_is_an_error() -> None:
    text = """
        services:
          a: {image: img, depends_on: {b: {condition: service_healthy}}}
          b: {image: img}
          c: {image: img, depends_on: {d: {condition: service_healthy}}}
          d: {image: img, healthcheck: {disable: true}}
    """
    assert problems(text) == [
        '2:32: service "a": depends_on: service "b" has no healthcheck, so it never becomes healthy',
        '4:32: service "c": depends_on: service "d" has no healthcheck, so it never becomes healthy',
    ]


def test_a_service_of_another_profile_is_named_as_such() -> None:
    text = """
        services:
          a: {image: img, depends_on: [b]}
          b: {image: img, profiles: [debug]}
    """
    assert problems(text) == ['2:32: service "a": depends_on: service "b" is only part of profile debug']
    assert len(compose(text, {"COMPOSE_PROFILES": "x, debug"}).resources) == 3


def test_a_mistake_in_the_stacks_defaults_is_told_once() -> None:
    text = """
        apiVersion: holdfast/v1
        kind: Stack
        metadata: {name: s}
        spec: {defaults: {restrt: always}}
        ---
        services: {a: {image: img}, b: {image: img}}
    """
    assert problems(text) == ['4:19: stack "s": defaults: unknown attribute "restrt" (did you mean "restart"?)']


def test_permission_bits_that_forgot_their_zero_are_caught() -> None:
    assert "644 is decimal and means 01204: write 0644" in attribute("secrets: [{source: s, mode: 644}]")[-1]
