"""Messages below the wall, and what its processes load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.supervise import wire

ROOT = Path(__file__).resolve().parents[2]
TOO_DEAR = {
    "typing",
    "dataclasses",
    "asyncio",
    "subprocess",
    "logging",
    "pathlib",
    "re",
    "json",
    "inspect",
    "threading",
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_what_is_encoded_is_json_and_comes_back_the_same(value: object) -> None:
    assert json.loads(wire.encode(value)) == value
    assert wire.decode(wire.encode(value)) == value


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":1} x', b"nul", b'{"a" 1}', b"\xff"])
def test_torn_or_foreign_text_is_refused_as_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        wire.decode(text)


def test_a_torn_file_reads_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "meta"
    path.write_text('{"pid": 1')
    assert wire.read_file(str(path)) is None
    assert wire.read_file(str(tmp_path / "none")) is None
    wire.write_file(str(path), {"pid": 2})
    assert wire.read_file(str(path)) == {"pid": 2}
    assert os.listdir(tmp_path) == ["meta"]


def test_start_time_names_this_process_and_no_dead_one() -> None:
    assert wire.process_starttime(os.getpid()) > 0
    assert wire.process_starttime(2**22 - 1) == 0


def test_keeper_and_supervisor_load_only_cheap_modules() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runtime.supervise.keeper; print(' '.join(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert "runtime.supervise.supervisor" in run.stdout.split()
    assert not TOO_DEAR & set(run.stdout.split())
