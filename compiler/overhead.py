"""What `ullage run` takes beside the budget: the interpreter, numpy, msgspec, the runtime, and the caller's inputs.

Measured here and now by a process that loads all of it and the file's plan, but allocates nothing of the model.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ullage.errors import UllageError
from ullage.plan.plan import Plan

_KERNEL_BYTES = 6 << 20
"""Page tables, kernel stacks and the slack of the C allocator, which a process's resident size does not show."""
_DTYPE_BYTES = {"float64": 8, "int64": 8, "int16": 2, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1}


def runtime_overhead_bytes(path: Path) -> int:
    """Bytes that a memory cgroup needs beside the budget to run the artifact with `ullage run`."""
    command = [sys.executable, "-m", "ullage.overhead", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UllageError(f"the runtime's overhead cannot be measured: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout)


def input_bytes(plan: Plan) -> int:
    """The caller's inputs at their largest."""
    upper = {dim.name: dim.maximum for dim in plan.dimensions}
    total = 0
    for info in plan.inputs:
        count = _DTYPE_BYTES.get(info.dtype, 4)
        for size in info.shape_at(upper):
            count *= size
        total += count
    return total


def resident_high_water_bytes() -> int:
    """The most memory that this process has ever had resident."""
    match = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise UllageError("/proc/self/status does not tell the resident size; this needs Linux.")
    return int(match.group(1)) * 1024


def _probe(path: Path) -> int:
    """Load what `ullage run` loads."""
    import json
    import zipfile

    import ullage.arrays
    import ullage.cli
    import ullage.runtime.load
    from ullage.artifact.reader import Artifact
    from ullage.cli_lean import parser

    parser().parse_args(["run", str(path), "--json"])
    with Artifact(path) as artifact:
        plan = artifact.plan(artifact.manifest.default)
        code = artifact.code()
    assert code and json and zipfile and ullage.arrays and ullage.cli and ullage.runtime.load
    return resident_high_water_bytes() + _KERNEL_BYTES + 2 * input_bytes(plan)


if __name__ == "__main__":
    print(_probe(Path(sys.argv[1])))
