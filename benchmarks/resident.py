"""Everything in memory: Ullage beside eager PyTorch and Inductor with freezing, in interleaved rounds.

`python -m benchmarks.resident [--models a,b] [--against eager,inductor] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import sys

from ullage.bench import bench

MODELS = ("minilm", "bert_base", "vit_b16", "resnet50")


def main() -> int:
    """Print one table per model; exit 1 if a result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--against", default="eager,inductor")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    passed = True
    for name in options.models.split(","):
        table = bench(f"benchmarks.zoo:{name}", options.against.split(","), None, None, None, options.rounds)
        print(f"\n{name}\n{table.text()}", flush=True)
        passed = passed and table.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
