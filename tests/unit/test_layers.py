"""The rules of who may import whom hold, by machine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
BELOW_THE_WALL = ("runtime/supervise", "runtime/sandbox", "runtime/cgroup", "runtime/netlink.py", "runtime/syscalls.py")
TOO_DEAR = {"typing", "dataclasses", "asyncio", "subprocess", "logging", "pathlib", "re", "enum", "inspect"}
TOO_DEAR_AT_RUN_TIME = {"typing", "dataclasses", "asyncio", "subprocess", "logging", "pathlib", "inspect"}
STARTED_BELOW_THE_WALL = ("runtime.supervise.keeper", "runtime.supervise.supervisor", "runtime.supervise.init")
CLIENT_OF_THE_WALL = "runtime/supervise/client.py"

HOME_OF_PACKAGE = {
    "yaml": ("reconciler.manifest",),
    "networkx": ("reconciler.graph",),
    "pyroute2": ("runtime.network.links",),
    "dnslib": ("runtime.network.names",),
    "apscheduler": ("reconciler.agent.schedule",),
    "aiohttp": ("reconciler.agent.server", "reconciler.agent.client"),
    "watchfiles": ("reconciler.source",),
    "isal": ("runtime.image.layer",),
    "backports": ("runtime.image.layer",),
    "click": ("reconciler.cli",),
    "rich": ("reconciler.cli",),
    "pydantic": ("schemas", "reconciler.manifest", "reconciler.agent.server"),
    "pyseccomp": ("runtime.sandbox",),
}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def wall_files() -> list[Path]:
    files: list[Path] = []
    for entry in BELOW_THE_WALL:
        path = ROOT / entry
        files += [path] if path.suffix else sorted(path.glob("*.py"))
    return files


def test_import_contracts_hold() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([command, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_third_party_package_has_one_home() -> None:
    graph = grimp.build_graph("reconciler", "runtime", "schemas", include_external_packages=True)
    strays = []
    for package, homes in HOME_OF_PACKAGE.items():
        if package not in graph.modules:
            continue
        for importer in sorted(graph.find_modules_that_directly_import(package)):
            if not any(importer == home or importer.startswith(home + ".") for home in homes):
                strays.append(f"{importer} imports {package}, whose home is {' or '.join(homes)}")
    assert not strays, "\n".join(strays)


@pytest.mark.parametrize("path", wall_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_below_the_wall_only_cheap_standard_modules_are_imported(path: Path) -> None:
    """Imports inside functions count only when they are not from the standard library: they run off the start path."""
    tree = ast.parse(path.read_text())
    at_module_level = set(_imports(tree.body))
    everywhere = set(_imports(list(ast.walk(tree))))
    allowed_outside = {"runtime", "pyseccomp"}
    foreign = {name for name in everywhere if name not in sys.stdlib_module_names and name not in allowed_outside}
    assert not foreign, f"not standard library: {sorted(foreign)}"
    if str(path.relative_to(ROOT)) != CLIENT_OF_THE_WALL:
        assert not at_module_level & TOO_DEAR, f"too dear below the wall: {sorted(at_module_level & TOO_DEAR)}"
        assert "pyseccomp" not in at_module_level


def _imports(nodes: list[ast.AST] | list[ast.stmt]) -> list[str]:
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module.split(".")[0])
    return [name for name in names if name != "__future__"]


@pytest.mark.parametrize("module", STARTED_BELOW_THE_WALL)
def test_a_process_below_the_wall_starts_with_cheap_modules_only(module: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; print('\\n'.join(sys.modules))"
    result = run_python("-I", "-S", "-c", code)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert not loaded & TOO_DEAR_AT_RUN_TIME
    assert not {name for name in loaded if name.split(".")[0] in {"reconciler", "schemas"}}


@pytest.mark.parametrize("line", ["--help", "status --help", "container run --help", "plan --help", "apply --help"])
def test_a_command_imports_only_what_it_needs(line: str) -> None:
    code = (
        "import sys\n"
        "from reconciler.cli.errors import run_command\n"
        "from reconciler.cli.main import root\n"
        f"run_command(root, {line.split()!r})\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    result = run_python("-c", code)
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    assert "click" in loaded
    assert not loaded & {"networkx", "pyroute2", "rich", "aiohttp", "apscheduler", "pydantic", "yaml", "watchfiles"}


def test_a_status_of_an_empty_root_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from reconciler.cli.errors import run_command\n"
        "from reconciler.cli.main import root\n"
        f"run_command(root, ['--root', {str(tmp_path / 'root')!r}, 'status'])\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    assert "runtime" in loaded
    assert not loaded & {"networkx", "pyroute2", "rich", "aiohttp", "pydantic"}


def test_the_locks_carry_hashes_and_name_no_registry() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#", "\t"))]
        assert pins and all("==" in pin and pin.endswith("\\") for pin in pins)
