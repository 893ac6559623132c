"""`python -m tests.opinfo [OPERATOR ...]`: PyTorch's samples of core operators in every dtype, compiled and judged."""

from __future__ import annotations

import argparse
import sys

from tests.opinfo.catalogue import Case, admitted, cases, core_operators
from tests.opinfo.judge import judged

BATCH = 12


def main(arguments: list[str]) -> int:
    """Judge samples; the exit status is 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", nargs="*", help="names of core operators (all)")
    parser.add_argument("--samples", type=int, default=2, help="of each way to call an operator (2)")
    parser.add_argument("--dtypes", nargs="*", help="such as float32 (all that PyTorch admits)")
    options = parser.parse_args(arguments)
    wrong = 0
    for operator in options.operators or core_operators():
        dtypes = [d for d in admitted(operator) if not options.dtypes or str(d)[6:] in options.dtypes]
        wrong += _report(operator, [case for dtype in dtypes for case in cases(operator, dtype, options.samples)])
    print(f"{wrong} wrong")
    return int(wrong > 0)


def _report(operator: str, samples: list[Case]) -> int:
    found = [judgement for i in range(0, len(samples), BATCH) for judgement in judged(samples[i : i + BATCH])]
    faults = [(case, fault) for case, fault in found if fault is not None]
    print(f"{operator:<40}{len(found) - len(faults):>5} right{len(faults):>5} wrong", flush=True)
    for case, fault in faults:
        print(f"    {case}: {fault[:300]}", flush=True)
    return len(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
