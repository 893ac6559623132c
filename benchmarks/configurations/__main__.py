"""`python -m benchmarks.configurations`: every configuration of the catalogue tried; exit 1 below 95 % right.

`--only TEXT` (repeatable) takes those with the text in their name, `--limit N` the first N, `--jobs N` tries N at once,
`--known FILE` keeps results and tries again only what was not right, `--json` prints one document.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.configurations.catalogue import Configuration, catalogue
from benchmarks.configurations.report import markdown, summary
from benchmarks.configurations.running import keeping, read_known, run_all

GOAL = 0.95


def main() -> int:
    """Try what was asked for; exit 1 below the goal, 2 where nothing fits."""
    options = _options()
    chosen = _chosen(options)
    if not chosen:
        print("no configuration has that in its name", file=sys.stderr)
        return 2
    _import_libraries()
    known = read_known(options.known)
    keep = keeping(options.known, known)
    left = [c for c in chosen if c.name not in known or known[c.name].problem]
    for done, found in enumerate(run_all(left, options.jobs), 1):
        keep(found)
        print(f"[{done}/{len(left)}] {found.name}: {found.problem or 'right'} ({found.seconds:.0f} s)", file=sys.stderr)
    attempts = [known[c.name] for c in chosen]
    print(
        json.dumps([asdict(one) for one in attempts]) if options.json else f"{markdown(attempts)}\n{summary(attempts)}"
    )
    return 0 if sum(not one.problem for one in attempts) >= GOAL * len(attempts) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="those with this in their name")
    parser.add_argument("--limit", type=int, help="the first N")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--known", type=Path, help="results are read from and kept in this file")
    parser.add_argument("--json", action="store_true", help="one document on stdout")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Configuration]:
    found = [c for c in catalogue() if not options.only or any(text in c.name for text in options.only)]
    return found[: options.limit]


def _import_libraries() -> None:
    """Once, for all the processes that are forked from this one."""
    import warnings

    import diffusers
    import transformers.modeling_utils

    warnings.filterwarnings("ignore")
    diffusers.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    sys.exit(main())
