"""From a spec and an image's config to the launch request."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import api
from runtime.container import spec as container_spec
from runtime.container.store import run_from_exit, spec_from_json, spec_to_json
from runtime.errors import InvalidSpec

CONFIG = {"Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["PATH=/image", "A=1"]}


def make(**fields: object) -> api.ContainerSpec:
    return api.ContainerSpec(name="c", image="i", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "argv"),
    [
        ({}, ["/entry", "serve"]),
        ({"command": ("x",)}, ["/entry", "x"]),
        ({"entrypoint": ("/own",)}, ["/own"]),
        ({"entrypoint": ("/own",), "command": ("x",)}, ["/own", "x"]),
        ({"entrypoint": (), "command": ("x",)}, ["x"]),
    ],
)
def test_an_entrypoint_of_its_own_drops_the_images_command(fields: dict[str, object], argv: list[str]) -> None:
    assert container_spec.argument_vector(make(**fields), CONFIG) == argv


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="what to run"):
        container_spec.argument_vector(make(), {})


def test_the_specs_environment_goes_before_the_images_before_the_defaults() -> None:
    env = container_spec.environment(make(env={"A": "2", "B": "3"}), CONFIG, "host", "/home/me")
    assert env == ["PATH=/image", "HOSTNAME=host", "HOME=/home/me", "A=2", "B=3"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), (None, 15), ("SIGRTMIN+3", signal.SIGRTMIN + 3)],
)
def test_signals_are_named_as_people_name_them(name: str | None, number: int) -> None:
    assert container_spec.signal_number(name) == number


@pytest.mark.parametrize("name", ["SIGNOPE", "0", "999", "SIG_IGN", "TERM+x"])
def test_an_unknown_signal_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec):
        container_spec.signal_number(name)


def test_the_images_health_check_counts_in_nanoseconds() -> None:
    config = {"Healthcheck": {"Test": ["CMD", "ok"], "Interval": 2_000_000_000, "Retries": 5}}
    check = container_spec.health_check(make(), config)
    assert check == api.HealthCheck(("CMD", "ok"), interval=2.0, retries=5)


def test_none_turns_the_images_health_check_off() -> None:
    config = {"Healthcheck": {"Test": ["CMD", "ok"]}}
    assert container_spec.health_check(make(health=api.HealthCheck(("NONE",))), config) is None


@pytest.mark.parametrize("option", ["seccomp", "apparmor=my-profile", "nope", "label=type:x"])
def test_a_security_option_that_cannot_be_honoured_is_refused(option: str) -> None:
    with pytest.raises(InvalidSpec, match="security_opt"):
        container_spec.SecurityOptions((option,), privileged=False)


def test_no_new_privileges_is_on_unless_told_otherwise() -> None:
    assert container_spec.SecurityOptions((), False).no_new_privileges
    assert not container_spec.SecurityOptions(("no-new-privileges:false",), False).no_new_privileges
    assert not container_spec.SecurityOptions((), True).no_new_privileges


texts = st.text(max_size=8)
names = st.tuples(texts, texts)


@given(
    st.builds(
        api.ContainerSpec,
        name=texts,
        image=texts,
        command=st.none() | names,
        env=st.dictionaries(texts, texts, max_size=3),
        networks=st.tuples(st.builds(api.Attachment, network=texts, aliases=names)),
        ports=st.tuples(st.builds(api.Port, st.integers(1, 65535), st.integers(0, 65535))),
        mounts=st.tuples(st.builds(api.Mount, st.just("tmpfs"), texts, tmpfs_options=names)),
        files=st.tuples(st.builds(api.File, texts, texts, st.booleans())),
        ulimits=st.tuples(st.builds(api.Ulimit, texts, st.integers(), st.integers())),
        resources=st.builds(api.Resources, memory=st.integers(0)),
        health=st.none() | st.builds(api.HealthCheck, names),
        sysctls=st.dictionaries(texts, texts, max_size=2),
    )
)
def test_a_spec_survives_its_record(spec: api.ContainerSpec) -> None:
    assert spec_from_json(spec_to_json(spec), {}, None) == spec


def test_death_by_signal_counts_as_shells_count_it() -> None:
    run = run_from_exit({"finished_at": 2.0, "code": None, "signal": 9, "oom": True}, 1.0)
    assert (run.exit_code, run.signal, run.oom, run.by_us) == (137, 9, True, False)
