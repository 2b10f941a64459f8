"""Compose files read as the reference implementation reads them, where its recorded answers are on this machine.

Deliberate differences: an unset variable is an error; attributes that are not supported yet, and values that cannot
work on one Linux host (Windows paths, volume plugins, overlay networks, settings of the whole host), are refused; an
empty override file is an error; an external network excludes ipam settings; the stack takes its name from the
directory where the reference wants one given.
"""

from __future__ import annotations

import posixpath
from typing import Any

import pytest

from reconciler.desired import workload
from reconciler.desired.facts import Facts, ImageFact
from reconciler.desired.resolution import Resolution
from reconciler.manifest.documents import Document, Reading, read_documents
from reconciler.manifest.texts import Source, SourceFile, Variables
from schemas.values import parse_duration, parse_size
from tests.support.reference_data import reference_cases

CASES = reference_cases("compose-cases.jsonl")
if not CASES:
    pytest.skip("no reference data on this machine", allow_module_level=True)

REFUSED = (
    "not supported yet",
    "cannot be used here",
    "is not set",
    "cannot work on one",
    "there are no volume plugins",
    "unknown driver option",
    "shared by the whole host",
    "is not an IP address",
    "the file is empty",
    "out of range",
    "must be default",
    "external excludes",
    "is a Windows path",
    "\\",
    "C:",
    "c:",
    "is required: ",
)
"""Words of the deliberate differences above."""
AT_LOADING = {"syslog-address", "needs one of file, content or environment"}
"""What follows from a refused driver."""
NO_NAME = "project name must not be empty"


def read(case: dict[str, Any]) -> Reading:
    variables = Variables(case["input"]["env"])
    place = posixpath.join("/project", case["input"]["working_dir"])
    files = tuple(
        SourceFile(file["filename"], file["content"], directory=place, project_dir=place, variables=variables)
        for file in case["input"]["files"]
    )
    return read_documents(Source(files, variables, place, ""))


def resolution(reading: Reading) -> Resolution:
    images = {d.spec.image: ImageFact(True, True) for d in reading.documents if d.kind == "Service" and d.spec.image}
    return Resolution(reading.documents, Facts("project", images=images), ("*",), reading.named)


def by_id(outcome: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in CASES if outcome in case]


@pytest.mark.parametrize("case", by_id("error"))
def test_what_the_reference_refuses_is_refused(case: dict[str, Any]) -> None:
    if case["error"].startswith((NO_NAME, 'invalid project name "MY_PROJECT"')):
        pytest.skip("the name comes from an option or from the directory")
    reading = read(case)
    problems = [str(problem) for problem in reading.problems]
    if reading.documents:
        resolved = resolution(reading)
        resolved.resolve()
        problems += [str(problem) for problem in resolved.problems]
    assert problems, case["error"]


@pytest.mark.parametrize("case", by_id("output"))
def test_what_the_reference_accepts_is_accepted_or_refused_for_a_stated_reason(case: dict[str, Any]) -> None:
    reading = read(case)
    unexplained = [
        str(problem)
        for problem in reading.problems
        if not any(word in problem.message for word in (*REFUSED, *AT_LOADING))
    ]
    assert unexplained == []


@pytest.mark.parametrize("case", by_id("output"))
def test_services_mean_what_they_mean_to_the_reference(case: dict[str, Any]) -> None:
    """Also in files of which some attribute is refused: the others are read all the same."""
    reading = read(case)
    wanted = case["output"].get("services") or {}
    services = {document.name: document for document in reading.documents if document.kind == "Service"}
    inactive = {name for name, document in services.items() if document.spec.profiles}
    if not case["options"].get("selected_services") and not reading.problems:
        assert set(services) - inactive <= set(wanted)
    for name, expected in wanted.items():
        implied = {"depends_on"} if expected.keys() & {"links", "volumes_from", "ipc", "pid", "network_mode"} else set()
        for attribute, compare in COMPARED.items():
            if attribute in implied:
                continue
            if attribute in expected and name in services and not services[name].lacks(attribute):
                ours, theirs = compare(services[name], expected[attribute])
                assert ours == theirs, f"{name}.{attribute}"


def same(attribute: str) -> Any:
    return lambda document, theirs: (getattr(document.spec, attribute), theirs)


def compare_environment(document: Document, theirs: Any) -> Any:
    ours = workload.environment(document, {})
    set_by_us = {key: value for key, value in theirs.items() if key in document.spec.environment and value is not None}
    return ours, set_by_us


def compare_ports(document: Document, theirs: Any) -> Any:
    ours = {(p.target, p.published, p.protocol, p.host_ip) for _, p in workload.published_ports(document.spec)}
    return ours, {
        (int(p["target"]), int(p.get("published") or 0), p.get("protocol", "tcp"), p.get("host_ip", "")) for p in theirs
    }


def compare_depends_on(document: Document, theirs: Any) -> Any:
    ours = {name: (d.condition, d.restart, d.required) for name, d in document.spec.depends_on.items()}
    return ours, {
        name: (d["condition"], d.get("restart", False), d.get("required", True)) for name, d in theirs.items()
    }


def compare_volumes(document: Document, theirs: Any) -> Any:
    from reconciler.desired.requests import bind_sources

    paths = dict(bind_sources(document))
    ours = [
        (entry.type, paths.get(index, entry.source), entry.target, entry.read_only)
        for index, entry in enumerate(document.spec.volumes)
    ]
    wanted = [(v["type"], v.get("source", ""), v["target"].rstrip("/"), v.get("read_only", False)) for v in theirs]
    return sorted(ours), sorted(wanted)


def compare_healthcheck(document: Document, theirs: Any) -> Any:
    check = workload.health(document.spec)
    if theirs.get("disable"):
        return check["test"], ["NONE"]
    times = {key: parse_duration(theirs[key]) for key in ("interval", "timeout", "start_period") if key in theirs}
    return ({key: check[key] for key in times} | {"test": check["test"]}), times | {"test": theirs["test"]}


def compare_networks(document: Document, theirs: Any) -> Any:
    if document.spec.networks is None:
        return None, None
    aliases = {name: sorted((entry or {}).get("aliases") or []) for name, entry in theirs.items()}
    return {name: sorted(entry.aliases) for name, entry in document.spec.networks.items()}, aliases


def compare_deploy(document: Document, theirs: Any) -> Any:
    deploy = document.spec.deploy
    limits = theirs.get("resources", {}).get("limits", {})
    wanted = (theirs.get("replicas"), parse_size(limits.get("memory", 0)), float(limits.get("cpus", 0)))
    return (deploy.replicas, deploy.resources.limits.memory, deploy.resources.limits.cpus), wanted


def compare_files(document: Document, theirs: Any, attribute: str) -> Any:
    ours = [entry.source for entry in getattr(document.spec, attribute)]
    return sorted(ours), sorted(entry["source"] for entry in theirs)


COMPARED: dict[str, Any] = {
    **{
        attribute: same(attribute)
        for attribute in (
            "image",
            "command",
            "entrypoint",
            "container_name",
            "user",
            "working_dir",
            "restart",
            "hostname",
            "labels",
            "privileged",
            "read_only",
            "init",
            "tty",
            "stdin_open",
            "profiles",
            "scale",
        )
    },
    "environment": compare_environment,
    "ports": compare_ports,
    "depends_on": compare_depends_on,
    "volumes": compare_volumes,
    "healthcheck": compare_healthcheck,
    "networks": compare_networks,
    "deploy": compare_deploy,
    "configs": lambda document, theirs: compare_files(document, theirs, "configs"),
    "secrets": lambda document, theirs: compare_files(document, theirs, "secrets"),
    "mem_limit": lambda document, theirs: (document.spec.mem_limit, int(theirs)),
    "shm_size": lambda document, theirs: (document.spec.shm_size, int(theirs)),
    "stop_grace_period": lambda document, theirs: (document.spec.stop_grace_period, parse_duration(theirs)),
    "tmpfs": lambda document, theirs: (
        [entry.target for entry in document.spec.tmpfs],
        [t.split(":")[0] for t in theirs],
    ),
    "extra_hosts": lambda document, theirs: (document.spec.extra_hosts, dict(t.split("=", 1) for t in theirs)),
    "cap_add": lambda document, theirs: (document.spec.cap_add, [t.removeprefix("CAP_") for t in theirs]),
    "env_file": lambda document, theirs: (len(document.spec.env_file), len(theirs)),
}
