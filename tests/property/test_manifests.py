"""Properties of reading: nothing but InputError for any input, one canonical form, the same answer every time."""

# ruff: noqa: E501 - manifests are quoted as users write them

from __future__ import annotations

import random
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.desired import fingerprint, from_json, to_json
from reconciler.desired.facts import Facts, ImageFact
from reconciler.desired.resolution import resolve
from reconciler.manifest.documents import load, read_documents
from reconciler.manifest.dotenv import parse_dotenv
from reconciler.manifest.interpolate import InterpolationError, expand
from reconciler.manifest.reader import read_yaml
from reconciler.manifest.texts import Source, SourceFile, Variables
from reconciler.manifest.tree import to_data
from reconciler.model import InputError, Problem
from tests.support.manifests import compose

NAMES = st.text("abcdefgh", min_size=1, max_size=6)
VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
MANIFESTISH = st.lists(
    st.sampled_from(
        [
            "services:\n",
            "  web:\n",
            "    image: ",
            "img\n",
            "    ports: ",
            "[",
            "]",
            "{",
            "}",
            "- ",
            ": ",
            "? ",
            "&a ",
            "*a",
            "<<",
            "!reset ",
            "!!int ",
            "'",
            '"',
            "\n",
            "    ",
            "#",
            "|\n",
            ">\n",
            "---\n",
            "apiVersion: holdfast/v1\n",
            "kind: Service\n",
            "spec: ",
            "metadata: ",
            "${A",
            ":-",
            "}",
            "$$",
            "$",
            "null",
            "1",
            "0440",
            "x-a: ",
            "build: ",
            "depends_on: ",
            "deploy: ",
            "healthcheck: ",
            "test: ",
            "name: ",
            "networks: ",
            "volumes: ",
            "environment: ",
            "secrets: ",
            "configs: ",
            "\t",
            "é",
            "\ufeff",
            ", ",
            "a",
            "=",
            "/",
            "..",
        ]
    ),
    max_size=40,
).map("".join)


def source(text: str, **variables: str) -> Source:
    scope = Variables(variables)
    return Source((SourceFile("f", text, directory="/d", project_dir="/d", variables=scope),), scope, "/d", "")


def outcome(text: str) -> Any:
    try:
        return compose(text)
    except InputError as error:
        return list(map(str, error.problems))


@given(st.one_of(st.text(max_size=200), MANIFESTISH))
@settings(max_examples=400, deadline=None)
def test_no_text_raises_anything_but_an_input_error(text: str) -> None:
    assert outcome(text) is not None


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise_anything_but_an_input_error(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert outcome(text) is not None


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 70000),
        st.floats(),
        VALUES,
        st.sampled_from(["80:80", "1m", "a:/b"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
ATTRIBUTE_NAMES = """image build command entrypoint environment env_file working_dir user labels hostname networks ports expose volumes
    tmpfs configs secrets depends_on healthcheck restart deploy cap_add cap_drop security_opt read_only init stop_signal
    stop_grace_period ulimits sysctls shm_size pids_limit mem_limit cpus profiles logging extra_hosts dns scale group_add
    container_name network_mode pull_policy gpus nonsense x-mine"""
ATTRIBUTES = st.sampled_from(ATTRIBUTE_NAMES.split())
SECTIONS = st.sampled_from(["services", "networks", "volumes", "configs", "secrets", "x-holdfast", "name", "junk"])


@given(
    st.dictionaries(NAMES, st.dictionaries(ATTRIBUTES, JUNK, max_size=5), max_size=2),
    st.dictionaries(SECTIONS, JUNK, max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_no_value_in_any_attribute_raises_anything_but_an_input_error(services: Any, more: Any) -> None:
    text = yaml.safe_dump({"services": services, **more}, allow_unicode=True)
    assert outcome(text.replace("$", "$$")) is not None


@given(
    st.sampled_from(["Stack", "Image", "Network", "Volume", "Config", "Secret", "Service", "Job"]), NAMES, JUNK, JUNK
)
@settings(max_examples=200, deadline=None)
def test_no_native_document_raises_anything_but_an_input_error(kind: str, key: str, metadata: Any, value: Any) -> None:
    for spec in (value, {key: value}):
        document = {"apiVersion": "holdfast/v1", "kind": kind, "metadata": metadata or {"name": "n"}, "spec": spec}
        assert outcome(yaml.safe_dump(document).replace("$", "$$")) is not None


@given(JUNK.filter(lambda value: "nan" not in repr(value)))
@settings(max_examples=200, deadline=None)
def test_plain_data_survives_yaml(value: Any) -> None:
    problems: list[Problem] = []
    text = yaml.safe_dump({"k": value}, default_style='"' if isinstance(value, str) else None, allow_unicode=False)
    nodes = read_yaml(text, "f", problems)
    if problems or "!!" in text:
        return
    assert to_data(nodes[0]).keys() == {"k"}


@given(st.text(max_size=60))
def test_text_with_doubled_dollars_is_itself(text: str) -> None:
    assert expand(text.replace("$", "$$"), Variables({})) == text


@given(st.text("${}:-?+aA_1 ", max_size=30), st.dictionaries(st.sampled_from(["a", "A", "_1"]), VALUES))
def test_expansion_only_ever_refuses(text: str, variables: dict[str, str]) -> None:
    try:
        expand(text, Variables(variables))
    except InterpolationError as error:
        assert 0 <= error.offset <= len(text)


@given(VALUES, VALUES)
def test_a_set_variable_is_its_value_and_is_not_expanded_again(value: str, default: str) -> None:
    variables = Variables({"V": value})
    assert expand("${V}", variables) == expand("$V", variables) == expand("${V-x}", variables) == value
    word = default.replace("$", "$$").replace("}", "")
    assert expand("${N-" + word + "}", variables) == default.replace("}", "")
    assert expand("${V:-" + word + "}", variables) == (value or default.replace("}", ""))


@given(st.text(max_size=100))
def test_no_dotenv_text_raises(text: str) -> None:
    problems: list[Problem] = []
    for value in parse_dotenv(text, ".env", Variables({}), problems).values():
        assert isinstance(value, str)


@given(st.dictionaries(NAMES, VALUES.map(lambda v: v.replace("\r", ""))))
def test_quoted_dotenv_values_come_back(values: dict[str, str]) -> None:
    problems: list[Problem] = []
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") for k, v in values.items()}
    text = "".join(f'{key}="{value}"\n' for key, value in escaped.items())
    assert parse_dotenv(text, ".env", Variables({}), problems) == values
    assert problems == []


@st.composite
def stacks(draw: Any) -> dict[str, Any]:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    networks = draw(st.lists(NAMES, max_size=3, unique=True))
    services: dict[str, Any] = {}
    for index, name in enumerate(names):
        service: dict[str, Any] = {"image": "img"}
        if draw(st.booleans()):
            service["environment"] = draw(
                st.dictionaries(NAMES, VALUES.map(lambda v: v.replace("$", "$$")), max_size=3)
            )
        if draw(st.booleans()):
            service["cap_add"] = draw(st.lists(st.sampled_from(["KILL", "CAP_CHOWN", "net_raw"]), max_size=3))
        if draw(st.booleans()):
            service["ports"] = [f"{10000 + index}:80"]
        if networks and draw(st.booleans()):
            service["networks"] = draw(st.lists(st.sampled_from(networks), min_size=1, unique=True))
        if index and draw(st.booleans()):
            service["depends_on"] = draw(st.lists(st.sampled_from(names[:index]), min_size=1, unique=True))
        services[name] = service
    return {"name": "s", "services": services, "networks": dict.fromkeys(networks)}


def resolved(document: Any) -> Any:
    documents = load(source(yaml.safe_dump(document, sort_keys=False, allow_unicode=True)))
    return resolve(documents, Facts(images={"img": ImageFact(True)}))


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same wish with its mappings in another order and its lists of services and names in their long form."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        made = dict(items)
        for key, default in (("depends_on", {"condition": "service_started"}), ("networks", None)):
            if isinstance(made.get(key), list):
                made[key] = dict.fromkeys(made[key], default)
        if isinstance(made.get("environment"), dict):
            made["environment"] = [f"{key}={item}" for key, item in made["environment"].items()]
        if isinstance(made.get("cap_add"), list):
            made["cap_add"] = [*reversed(made["cap_add"]), *made["cap_add"]]
        return made
    return value


@given(stacks(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_one_wish_has_one_canonical_form(document: dict[str, Any], chance: random.Random) -> None:
    first, second, other = resolved(document), resolved(document), resolved(shuffled(document, chance))
    assert first == second
    assert {k: (r.spec, r.policy, r.needs, r.fingerprint) for k, r in first.resources.items()} == {
        k: (r.spec, r.policy, r.needs, r.fingerprint) for k, r in other.resources.items()
    }
    assert from_json(to_json(first)) == first
    assert all(r.fingerprint == fingerprint(r.spec) for r in first.resources.values())


@given(stacks())
@settings(max_examples=40, deadline=None)
def test_every_edge_leads_to_a_resource_of_the_stack(document: dict[str, Any]) -> None:
    desired = resolved(document)
    assert all(need.key in desired.resources for r in desired.resources.values() for need in r.needs)
    assert not read_documents(source(yaml.safe_dump(document, allow_unicode=True))).problems
