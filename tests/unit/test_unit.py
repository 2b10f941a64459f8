"""The systemd unit keeps containers alive when the agent stops, and its command line survives odd paths."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.agent.unit import install_unit, unit_text
from runtime.errors import Unsupported

OWED = (
    "Type=notify", "KillMode=process", "Delegate=yes", "Restart=always", "ExecReload=/bin/kill -HUP $MAINPID",
    "WantedBy=multi-user.target", "WatchdogSec=120",
)  # fmt: skip


def test_the_unit_says_what_the_design_owes() -> None:
    lines = unit_text("/usr/bin/holdfast", "/var/lib/holdfast", ("-f", "/etc/holdfast")).splitlines()
    assert [line for line in OWED if line not in lines] == []
    assert "ExecStart=/usr/bin/holdfast --root /var/lib/holdfast agent -f /etc/holdfast" in lines


def test_odd_characters_in_paths_are_quoted_for_systemd() -> None:
    text = unit_text("/opt/my tools/holdfast", "/srv/100%", ("-f", '/etc/a"b$c'))
    assert 'ExecStart="/opt/my tools/holdfast" --root /srv/100%% agent -f "/etc/a\\"b$$c"' in text.splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.service"
    path.write_text(unit_text("/bin/true", str(tmp_path), ("-f", "/etc")))
    words = ["systemd-analyze", "verify", str(path)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "holdfast.service" not in result.stderr, result.stderr


def test_installing_writes_the_file_over_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.service"
    path.write_text("old")
    assert install_unit("new", str(path), start=False) == [f"wrote {path}"]
    assert path.read_text() == "new" and [item.name for item in tmp_path.iterdir()] == ["holdfast.service"]


def test_a_host_without_systemd_is_told_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="init system"):
        install_unit("text", str(tmp_path / "no" / "holdfast.service"))
