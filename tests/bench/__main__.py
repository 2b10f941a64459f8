"""Runs every benchmark, each in a process of its own: `make bench`, or `python -m tests.bench launch memory`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DIRECTORY = Path(__file__).parent


def main() -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in DIRECTORY.glob("bench_*.py"))
    wanted = sys.argv[1:] or known
    if unknown := set(wanted) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.bench_{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
