"""One plan for every length: time of a run by the length of its input, for MiniLM with 8 to 256 tokens.

`python -m benchmarks.dynamic [--rounds 15]`. Lengths are interleaved, medians; every weight is in memory. A second
column gives a plan made for that length alone.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import ullage
from benchmarks.zoo import TextModel, minilm_folder

LENGTHS = (8, 32, 64, 128, 256)


def main() -> None:
    """Compile once for all lengths and once for each, then time them in turn."""
    from transformers import AutoModel

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    model = TextModel(AutoModel.from_pretrained(minilm_folder(), attn_implementation="sdpa")).eval()
    length = torch.export.Dim("length", min=8, max=256)
    inputs = {size: (torch.randint(1, 30_000, (1, size)), torch.ones(1, size, dtype=torch.long)) for size in LENGTHS}
    shapes = ({1: length}, {1: length})
    every = ullage.compile(model, example_inputs=inputs[64], dynamic_shapes=shapes)
    alone = {size: ullage.compile(model, example_inputs=inputs[size]) for size in LENGTHS}
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for size in LENGTHS:
            for name, compiled in (("every", every), ("alone", alone[size])):
                start = time.perf_counter()
                compiled(*inputs[size])
                seconds.setdefault((name, size), []).append(time.perf_counter() - start)
    print(f"{'tokens':>6} {'8..256':>9} {'alone':>9}")
    for size in LENGTHS:
        both = (1e3 * statistics.median(seconds[name, size]) for name in ("every", "alone"))
        print(f"{size:>6} " + " ".join(f"{value:6.2f} ms" for value in both))


if __name__ == "__main__":
    main()
