"""The published JSON Schemas are those of the models, and say the same as the models about documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import schemas
from reconciler.manifest.reader import read_yaml
from reconciler.manifest.tree import to_data
from schemas.generate import DIRECTORY, generate

jsonschema_rs = pytest.importorskip("jsonschema_rs")
EXAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "manifests").rglob("*.y*ml")
    if not (path.parent / "Dockerfile").exists()
)


def test_the_published_schemas_are_not_stale() -> None:
    for name, text in generate().items():
        assert (Path(DIRECTORY) / name).read_text() == text, f"{name}: run python -m schemas.generate"


@pytest.mark.parametrize("kind", [*schemas.KINDS, "Compose", "service"])
def test_every_kind_has_a_schema(kind: str) -> None:
    schema = schemas.json_schema(kind)
    jsonschema_rs.validator_for(schema)
    assert schema["additionalProperties"] is False


def test_an_unknown_kind_has_none() -> None:
    with pytest.raises(KeyError):
        schemas.json_schema("Pod")


def validator(document: dict[str, Any]) -> Any:
    return jsonschema_rs.validator_for(schemas.json_schema(document.get("kind") or "compose"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_satisfy_their_schemas(path: Path) -> None:
    for node in read_yaml(path.read_text(), path.name, []):
        document = to_data(node)
        errors = [f"{error.instance_path}: {error.message}" for error in validator(document).iter_errors(document)]
        assert errors == []


WHOLE = """
name: shop
version: "3"
services:
  web:
    image: a
    build: {context: ., args: {A: 1, B: }, dockerfile: D, target: t, labels: [x=y], no_cache: true, network: host}
    command: [a, b]
    entrypoint: sh -c
    environment: {A: 1, B: null, C: true, D: 1.5}
    env_file: [a, {path: b, required: false, format: raw}]
    working_dir: /x
    user: "1:2"
    labels: [a=b]
    hostname: h
    networks: {n: {aliases: [x], ipv4_address: 10.0.0.2, priority: 3}, m: null}
    ports: [80, "81:81/udp", {target: 82, published: "83", host_ip: 127.0.0.1, protocol: tcp, mode: host}]
    expose: [80, "81"]
    volumes: ["a:/b", {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}, {type: bind, source: ., target: /c}]
    tmpfs: [/x, "/y:size=1m"]
    configs: [c, {source: d, target: /d, uid: "1", gid: 1, mode: 0440}]
    secrets: [s]
    depends_on: {db: {condition: service_healthy, restart: true, required: false}}
    healthcheck: {test: [CMD, ls], interval: 1m30s, timeout: 5s, retries: 3, start_period: 1s, start_interval: 1s}
    restart: on-failure:3
    deploy:
      replicas: 2
      resources: {limits: {cpus: "0.5", memory: 1g, pids: 5}, reservations: {memory: 1m}}
      restart_policy: {condition: any, delay: 5s, max_attempts: 3, window: 1m}
      update_config: {parallelism: 2, delay: 1s, order: start-first, failure_action: continue}
    cap_add: [ALL]
    cap_drop: [KILL]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    init: true
    stop_signal: SIGINT
    stop_grace_period: 1m
    ulimits: {nofile: 5, nproc: {soft: 1, hard: 2}}
    sysctls: {net.core.somaxconn: 5}
    shm_size: 64m
    pids_limit: 10
    mem_limit: 1g
    cpus: 1.5
    profiles: [p]
    logging: {driver: json-file, options: {max-size: 1m, max-file: "3"}}
    x-mine: anything
  db: {image: b, depends_on: [c], build: ./x, command: "a b", networks: [n], tmpfs: /x, env_file: a}
networks: {n: null, m: {internal: true, ipam: {config: [{subnet: 10.0.0.0/24}]}}}
volumes: {v: null, w: {driver_opts: {type: tmpfs, device: tmpfs, o: size=1m}}}
configs: {c: {content: x}, d: {file: y}}
secrets: {s: {environment: S}}
x-anything: 3
"""


def test_the_compose_schema_accepts_all_forms_that_are_supported() -> None:
    [node] = read_yaml(WHOLE, "w", [])
    document = to_data(node)
    assert [e.message for e in validator(document).iter_errors(document)] == []
    from schemas.documents import ComposeFile

    ComposeFile.model_validate(document)


@pytest.mark.parametrize(
    "text",
    [
        "services: {a: {imge: x}}",
        "services: {a: {image: 3}}",
        "services: {a: {gpus: all}}",
        "services: {a: {ports: 80}}",
        "servces: {}",
        "services: {a: {deploy: {replica: 1}}}",
        "services: {a: {restart: sometimes}}",
        "networks: {a: {driver: overlay}}",
        "services: {a: {depends_on: {b: {condition: x}}}}",
        "apiVersion: holdfast/v1\nkind: Service\nmetadata: {}\nspec: {}",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {}",
    ],
)
def test_what_the_models_refuse_in_shape_the_schemas_refuse(text: str) -> None:
    [node] = read_yaml(text, "w", [])
    document = to_data(node)
    assert list(validator(document).iter_errors(document))


def test_asking_for_a_schema_loads_no_models() -> None:
    import subprocess
    import sys

    program = "import sys, schemas; schemas.json_schema('Service'); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert json.loads(json.dumps(schemas.json_schema("compose")))["title"].startswith("Compose")
