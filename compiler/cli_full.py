"""The commands that need the compiler: convert, plan, check, bench, doctor, generate."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ullage.api import writable
from ullage.budget import format_bytes
from ullage.cli_source import parse_inputs, parse_ranges
from ullage.errors import InputError, UllageError
from ullage.options import CompileOptions

app = typer.Typer(
    name="ullage",
    help="Run neural networks inside a byte budget.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help=".onnx, .gguf, .pt2, a Hugging Face folder, or package.module:factory")
]
Artifact = Annotated[Path, typer.Argument(metavar="OUT.ullage", help="an artifact")]
BudgetText = Annotated[str | None, typer.Option("--budget", metavar="BYTES", help="such as 24MiB, or auto")]
TargetText = Annotated[str, typer.Option("--target", metavar="T", help="cpu, cpu:avx2, cpu:generic, cuda, cuda:sm_90")]
Accuracy = Annotated[str, typer.Option("--accuracy", metavar="A", help="exact, or the relative error allowed")]
Quantize = Annotated[str | None, typer.Option("--quantize", metavar="S", help="a quantization scheme")]
Sparsify = Annotated[str | None, typer.Option("--sparsify", metavar="S", help="a sparsity scheme")]
Calibration = Annotated[Path | None, typer.Option("--calibration", metavar="NPZ", help="inputs to judge lossy choices")]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="threads to plan for; else the affinity and CPU quota")
]
Tune = Annotated[
    float | None,
    typer.Option(
        "--tune", metavar="[SECONDS]", help="measure tilings of kernels for so long; 0: use those that are kept"
    ),
]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", metavar="NAME=DTYPE[SHAPE]", help="an input to capture with")
]
Dynamic = Annotated[
    list[str] | None, typer.Option("--dynamic", metavar="NAME.AXIS=LOW..HIGH", help="a dynamic dimension")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]


_TUNE_SECONDS = "60"
"""What `--tune` without a number means."""


def run_command(arguments: Sequence[str]) -> int:
    """Parse and run; returns the exit code. Wrong usage is raised as InputError."""
    _find_factories_here()
    try:
        result = app(args=with_seconds(arguments), standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort as stop:
        raise KeyboardInterrupt from stop
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        raise InputError(f"{usage().rstrip('.')} (see ullage --help).") from error
    return result if isinstance(result, int) else 0


def with_seconds(arguments: Sequence[str]) -> list[str]:
    """The arguments with the default number of seconds after each `--tune` that has none."""
    found: list[str] = []
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=True):
        found.append(argument)
        if argument == "--tune" and not _is_number(following):
            found.append(_TUNE_SECONDS)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _find_factories_here() -> None:
    """`package.module:factory` is looked up in the current folder too, as with `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _options(
    budget: str | None,
    target: str,
    accuracy: str,
    quantize: str | None,
    sparsify: str | None,
    inputs: list[str] | None,
    dynamic: list[str] | None,
    calibration: Path | None = None,
    threads: int | None = None,
    tune: float | None = None,
) -> CompileOptions:
    return CompileOptions(
        budget=budget,
        target=target,
        accuracy=_accuracy(accuracy),
        quantize=quantize,
        sparsify=sparsify,
        calibration=None if calibration is None else [str(calibration)],
        input_specs=parse_inputs(inputs or ()),
        dynamic_shapes=parse_ranges(dynamic or ()),
        progress=True,
        threads=threads,
        tune=tune,
    )


def _accuracy(text: str) -> str | float:
    if text == "exact":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--accuracy {text!r}: 'exact' or a number is wanted.") from error


@app.command()
def convert(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="OUT.ullage, or OUT.onnx")],
    budget: BudgetText = None,
    target: TargetText = "cpu",
    accuracy: Accuracy = "exact",
    quantize: Quantize = None,
    sparsify: Sparsify = None,
    calibration: Calibration = None,
    inputs: Inputs = None,
    dynamic: Dynamic = None,
    threads: Threads = None,
    tune: Tune = None,
    as_json: Json = False,
) -> int:
    """Capture, rewrite, generate code, write one file; OUT.onnx: write the rewritten model as ONNX."""
    options = _options(budget, target, accuracy, quantize, sparsify, inputs, dynamic, calibration, threads, tune)
    writable(output)
    if output.suffix == ".onnx":
        return _convert_to_onnx(model, options, output, as_json)
    from ullage.flow import convert as run

    planned = run(model, options, output)
    document = {
        "path": str(output),
        "file_bytes": output.stat().st_size,
        "budget_bytes": planned.budget_bytes,
        "peak_bytes": {"ram": planned.peak_bytes},
        "minimum_bytes": {"ram": planned.minimum_bytes},
    }
    tuned = "" if tune is None else "\n" + _tuning(output, document)
    _print(
        document,
        as_json,
        f"{output}: {format_bytes(output.stat().st_size)}, peak {format_bytes(planned.peak_bytes)}, "
        f"least budget {format_bytes(planned.minimum_bytes)}{tuned}",
    )
    return 0


def _convert_to_onnx(model: str, options: CompileOptions, output: Path, as_json: bool) -> int:
    from ullage.flow import convert_to_onnx

    written = convert_to_onnx(model, options, output)
    document = {
        "path": str(output),
        "files": [str(path) for path in written.paths],
        "file_bytes": written.bytes,
        "rewrites": [
            {"pass": r.pass_name, "what": r.what, "where": r.where, "error": r.error} for r in written.rewrites
        ],
    }
    _print(document, as_json, f"{', '.join(map(str, written.paths))}: {format_bytes(written.bytes)}")
    return 0


def _tuning(path: Path, document: dict[str, Any]) -> str:
    """What was tuned, as text; the document gets it too."""
    from ullage.artifact.reader import inspect as read

    kernels = document["tuning"] = read(path)["tuning"]
    chosen = [kernel for kernel in kernels if kernel["ratio"] < 1]
    best = f", the fastest in {min(kernel['ratio'] for kernel in chosen):.2f} of its time" if chosen else ""
    return f"tuned {len(kernels)} kernels: {len(chosen)} with another tiling{best}"


@app.command()
def plan(
    model: Model,
    budget: BudgetText = None,
    target: TargetText = "cpu",
    accuracy: Accuracy = "exact",
    quantize: Quantize = None,
    sparsify: Sparsify = None,
    inputs: Inputs = None,
    dynamic: Dynamic = None,
    threads: Threads = None,
    tune: Tune = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="PAGE", help="write one self-contained page")] = None,
    as_json: Json = False,
) -> int:
    """Everything up to the plan; without --budget the least budget and the frontier."""
    options = _options(budget, target, accuracy, quantize, sparsify, inputs, dynamic, threads=threads, tune=tune)
    if html is not None:
        writable(html)
    from ullage.facts import plan_json
    from ullage.flow import facts_of, open_model, prepare
    from ullage.flow import plan as make_plan
    from ullage.frontiers import predicted
    from ullage.report import explain, html_page

    captured, source = open_model(model, options)
    prepared = prepare(captured, options, source)
    facts = facts_of(prepared, make_plan(prepared, options), options)
    frontier = predicted(prepared) if budget is None else None
    points = [] if frontier is None else frontier.to_json()
    if html is not None:
        html.write_text(html_page(facts, f"Ullage plan of {model}", points), encoding="utf-8")
    document = plan_json(facts)
    if frontier is not None:
        document["frontier"] = points
    _print(document, as_json, explain(facts) + ("" if frontier is None else "\n\n" + frontier.table()))
    return 0


@app.command()
def check(
    artifact: Artifact,
    reference: Annotated[str, typer.Option("--reference", metavar="MODEL", help="the model to compare with")],
    input_file: Annotated[
        Path | None, typer.Option("--input", metavar="IN", help=".npz with inputs; else random ones")
    ] = None,
    tolerance: Annotated[float | None, typer.Option("--tolerance", help="relative error allowed per output")] = None,
    as_json: Json = False,
) -> int:
    """Run the artifact and its reference, print the error of each output; exit 1 beyond tolerance."""
    from ullage.checking import check as run

    result = run(artifact, reference, input_file, tolerance)
    _print(result.to_json(), as_json, result.table())
    return 0 if result.passed else 1


@app.command()
def bench(
    subject: Annotated[str, typer.Argument(metavar="OUT.ullage|MODEL", help="an artifact or a model")],
    against: Annotated[str, typer.Option("--against", metavar="SYSTEMS", help="comma-separated")] = "eager",
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="MODEL", help="the model that the others run, for an artifact")
    ] = None,
    budget: BudgetText = None,
    inputs: Inputs = None,
    threads: Threads = None,
    accuracy: Accuracy = "exact",
    quantize: Quantize = None,
    tune: Tune = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="interleaved rounds")] = 10,
    as_json: Json = False,
) -> int:
    """Run several systems side by side: time, peak, bytes read, error."""
    from ullage.bench import bench as run

    allowed = _accuracy(accuracy)
    table = run(
        subject,
        against.split(","),
        reference,
        budget,
        parse_inputs(inputs or ()),
        rounds,
        threads,
        allowed,
        tune,
        quantize,
    )
    _print({"rows": [row.to_json() for row in table.rows]}, as_json, table.text())
    return 0 if table.passed else 1


@app.command()
def doctor(
    fresh: Annotated[bool, typer.Option("--fresh", help="measure the rates again")] = False, as_json: Json = False
) -> int:
    """What this machine offers: cores, instruction sets, memory, rates, compilers, GPUs."""
    from ullage.doctor import as_text, machine

    facts = machine(fresh)
    _print(facts, as_json, as_text(facts))
    return 0


@app.command()
def generate(
    artifact: Artifact,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="1,2,3")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N")] = 32,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", metavar="S")] = 0,
    as_json: Json = False,
) -> int:
    """Generate text (not in this version)."""
    raise UllageError("this version cannot generate text yet; `ullage run` computes the logits of one forward pass.")


@app.command()
def run() -> int:
    """Run an artifact (see ullage run --help)."""
    raise AssertionError("dispatched before")


@app.command()
def inspect() -> int:
    """What an artifact holds and promises (see ullage inspect --help)."""
    raise AssertionError("dispatched before")


def _print(document: dict[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(document) if as_json else text)
    sys.stdout.flush()
