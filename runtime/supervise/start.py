"""The program of keeper and supervisor, run as `python -I -S start.py keeper|supervisor RUN CGROUP [STATE]`.

`keeper` returns to its caller when the socket listens (or another keeper has it); the keeper itself goes on in the
background. `supervisor` is how a supervisor replaces its own program in place: STATE is an inherited descriptor.
"""

from __future__ import annotations

import os
import sys

sys.path[:] = [path for path in sys.path if path and not path.endswith("runtime/supervise")]
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runtime.supervise import keeper  # noqa: E402

if __name__ == "__main__":
    if sys.argv[1] == "keeper":
        keeper.start(sys.argv[2], sys.argv[3])
    else:
        keeper.resume(sys.argv[2], sys.argv[3], int(sys.argv[4]))
