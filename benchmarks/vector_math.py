"""The largest errors of the elementary functions: `python -m benchmarks.vector_math` prints the table of the manual.

Errors are in ulp of the correctly rounded float32 result, against float64, over both signs of all 256 exponents with
`--mantissas` random ones each (the more, the closer to the true maximum), on every instruction set of this machine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from ullage.codegen.cpp.accuracy import FUNCTIONS, Worst, measure
from ullage.target import Target, best_isa

ISAS = ("avx512", "avx2", "generic")


def table(measured: Sequence[Worst]) -> list[str]:
    """A Markdown table: function, bound, the errors measured on each instruction set, special values."""
    found = {(w.function, w.isa): w.ulp for w in measured}
    rows = [f"| function | at most | {' | '.join(ISAS)} | at special arguments |", "| --- " * (len(ISAS) + 3) + "|"]
    for name, function in FUNCTIONS.items():
        errors = " | ".join(_shown(found.get((name, isa))) for isa in ISAS)
        rows.append(f"| `{name}` | {function.limit_ulp:g} | {errors} | {function.specials} |")
    return rows


def _shown(ulp: float | None) -> str:
    """Two decimals, rounded up."""
    return "–" if ulp is None else f"{math.ceil(ulp * 100 - 1e-4) / 100:.2f}" if math.isfinite(ulp) else "wrong"


def main() -> None:
    """Measure several times with other mantissas and print the table of the maxima."""
    parser = argparse.ArgumentParser(description="Largest errors of the elementary functions, as a Markdown table.")
    parser.add_argument("--mantissas", type=int, default=4096, help="per exponent and sign, and round")
    parser.add_argument("--rounds", type=int, default=4, help="each with other mantissas")
    options = parser.parse_args()
    targets = [Target("cpu", isa, 1) for isa in ISAS[ISAS.index(best_isa().removesuffix("_bf16")) :]]
    rounds = [measure(targets, options.mantissas, seed) for seed in range(options.rounds)]
    print("\n".join(table([max(same, key=lambda w: w.ulp) for same in zip(*rounds, strict=True)])))


if __name__ == "__main__":
    main()
