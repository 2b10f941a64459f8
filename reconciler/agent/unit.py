"""The systemd unit of the host agent: its text, and putting it in place."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from runtime.errors import EngineError, Unavailable, Unsupported

UNIT_PATH = "/etc/systemd/system/holdfast.service"


def unit_text(executable: str, root: str, arguments: Sequence[str] = ()) -> str:
    """The unit that runs `holdfast --root ROOT agent ARGUMENTS...`, e.g. arguments ("-f", "/etc/holdfast").

    KillMode=process: stopping or upgrading the agent must end the agent only; containers outlive it.
    Delegate=yes: systemd leaves the control groups that the engine makes alone.
    """
    command = " ".join(_quote(word) for word in (executable, "--root", root, "agent", *arguments))
    return f"""\
[Unit]
Description=Holdfast host agent
After=network.target local-fs.target time-sync.target
RequiresMountsFor={_quote(root)}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
WatchdogSec=120
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
OOMScoreAdjust=-500
TimeoutStopSec=30
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def install_unit(text: str, path: str = UNIT_PATH, *, start: bool = True) -> list[str]:
    """Write the unit (rename over the old one) and, where systemd runs, enable and start it. Returns what was done."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise Unsupported(
            f'cannot install unit "{path}": {directory} does not exist',
            "without systemd, start `holdfast agent` from the init system that this host has",
        )
    temporary = f"{path}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Unavailable(f'cannot install unit "{path}": {error.strerror}', "are you root?") from None
    done = [f"wrote {path}"]
    # /run/systemd/system exists exactly while systemd is the running init (sd_booted(3)).
    if start and os.path.isdir("/run/systemd/system") and shutil.which("systemctl"):
        name = os.path.basename(path)
        for words in (("daemon-reload",), ("enable", name), ("restart", name)):
            _systemctl(words)
            done.append("systemctl " + " ".join(words))
    return done


def _systemctl(words: tuple[str, ...]) -> None:
    what = "systemctl " + " ".join(words)
    try:
        result = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f'cannot run "{what}": {error}') from None
    if result.returncode != 0:
        raise EngineError(f'cannot run "{what}": {result.stderr.strip() or f"exit code {result.returncode}"}')


def _quote(word: str) -> str:
    """One word of a unit file (systemd.syntax(7)): % and $ would be expanded, quotes and spaces would split."""
    text = word.replace("%", "%%").replace("$", "$$")
    if text and all(character.isalnum() or character in "/._-+:=@,%$" for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
