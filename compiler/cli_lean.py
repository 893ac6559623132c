"""`ullage run` and `ullage inspect`: standard library, numpy and the runtime only."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ullage.errors import InputError

if TYPE_CHECKING:
    from ullage.runtime.runner import Runner


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong usage is an error like any other: one line, exit code 2."""
        raise InputError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The arguments of both commands."""
    top = _Parser(prog="ullage")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="Run an artifact.", description="Run an artifact.")
    run.add_argument("artifact", type=Path, metavar="OUT.ullage")
    run.add_argument("--input", type=Path, metavar="IN", help=".npz with input names as keys; .npy for one input")
    run.add_argument("--output", type=Path, metavar="OUT", help=".npz (or .npy for one output) to write")
    run.add_argument("--budget", metavar="BYTES", help="replan for this budget, such as 24MiB")
    run.add_argument("--threads", type=int, metavar="N", help="threads, at most those that the file was made for")
    run.add_argument("--repeat", type=int, default=1, metavar="N", help="number of runs")
    run.add_argument("--json", action="store_true", help="print one JSON document")
    inspect = commands.add_parser(
        "inspect", help="What an artifact holds and promises.", description="What an artifact holds and promises."
    )
    inspect.add_argument("artifact", type=Path, metavar="OUT.ullage")
    inspect.add_argument("--json", action="store_true", help="print one JSON document")
    return top


def run_command(arguments: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    try:
        options = parser().parse_args(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return run(options) if options.command == "run" else inspect(options)


def run(options: argparse.Namespace) -> int:
    """Load, run `--repeat` times, write the outputs, say what it took."""
    from ullage.arrays import read_arrays, write_arrays
    from ullage.artifact.reader import read_manifest
    from ullage.runtime.load import load

    if options.repeat < 1:
        raise InputError(f"--repeat must be at least 1, found {options.repeat}.")
    manifest = read_manifest(options.artifact)
    with load(options.artifact, options.budget, options.threads) as runner:
        inputs = {} if options.input is None else read_arrays(options.input, [i.name for i in manifest.inputs])
        outputs, document = _timed_runs(runner, inputs, options.repeat)
        if options.output is not None:
            write_arrays(options.output, outputs)
        document["measured_bytes"] = runner.measured_bytes()
    document["outputs"] = [
        {"name": info.name, "dtype": info.dtype, "shape": list(outputs[info.name].shape)} for info in manifest.outputs
    ]
    _print(document, options.json)
    return 0


def _timed_runs(runner: Runner, inputs: Mapping[str, Any], repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last outputs, and the figures of all runs: times one by one, bytes and stalls added up."""
    all_stats, outputs = [], dict[str, Any]()
    for _ in range(repeat):
        outputs.clear()  # so that one set of results exists at a time
        outputs = runner.run(inputs)
        all_stats.append(runner.stats())
    return outputs, {
        "seconds": [stats["seconds"] for stats in all_stats],
        "peak_bytes": all_stats[-1]["peak_bytes"],
        "budget_bytes": all_stats[-1]["budget_bytes"],
        "bytes_read": sum(stats["bytes_read"]["disk"] for stats in all_stats),
        "stall_seconds": sum(stats["stall_seconds"] for stats in all_stats),
    }


def inspect(options: argparse.Namespace) -> int:
    """Print what a file holds; checks its header and manifest, reads no weights."""
    from ullage.artifact.reader import inspect as read
    from ullage.overhead import runtime_overhead_bytes

    document = read(options.artifact)
    document["runtime_overhead_bytes"] = runtime_overhead_bytes(options.artifact)
    _print(document, options.json)
    return 0


def _print(document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(document))
        return
    for key, value in document.items():
        for line in _lines(key, value):
            print(line)
    sys.stdout.flush()


def _lines(key: str, value: Any) -> list[str]:
    from ullage.budget import format_bytes

    if key == "kernels":
        return [f"kernels: {len(value)}"]
    if key == "rewrites":
        return [f"rewrites: {len(value)}"]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [f"{key}:", *("  " + ", ".join(f"{k} {_plain(v)}" for k, v in item.items()) for item in value)]
    if isinstance(value, dict):
        return [f"{key}: {', '.join(f'{tier} {format_bytes(count)}' for tier, count in value.items())}"]
    if "bytes" in key and isinstance(value, int):
        return [f"{key}: {format_bytes(value)} ({value})"]
    return [f"{key}: {_plain(value)}"]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
