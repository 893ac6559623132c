"""What each scheme of narrow arithmetic does to real sentence embeddings.

`python -m benchmarks.schemes`. all-MiniLM-L6-v2 with its own weights encodes the demo's sentences and paragraphs of the
standard library's documentation: the error of the embeddings, the least cosine between an embedding and that of
float32, how often the nearest other text stays the same, and the bytes of the weights.
"""

from __future__ import annotations

import inspect
import sys
import warnings

import torch

import ullage
from benchmarks.sentences import SENTENCES, minilm, tokenise

SCHEMES = ("bfloat16", "int8", "int8-weights", "int4-weights", "int4-weights/128", "int3-weights", "int2-weights")
_MODULES = ("argparse", "asyncio", "collections", "csv", "decimal", "heapq", "json", "logging", "random", "shutil",
            "socket", "statistics", "string", "subprocess", "tempfile", "textwrap", "threading", "typing")  # fmt: skip


def texts() -> list[str]:
    """Sentences and first paragraphs of docstrings."""
    found = list(SENTENCES)
    for name in _MODULES:
        module = __import__(name)
        members = (getattr(module, member, None) for member in getattr(module, "__all__", dir(module)))
        docs = (inspect.getdoc(member) for member in members if callable(member))
        found += [doc.split("\n\n")[0].replace("\n", " ") for doc in docs if doc and len(doc) > 60]
    return list(dict.fromkeys(found))


def main() -> int:
    """Print a table."""
    warnings.simplefilter("ignore")
    model, _ = minilm()
    inputs = tokenise(tuple(texts()))
    with torch.no_grad():
        exact = model(*inputs)
    print(f"{exact.shape[0]} texts, cut to {inputs[0].shape[1]} tokens")
    print(f"{'scheme':18} {'error':>7} {'least cosine':>13} {'same nearest':>13} {'weights, MiB':>13}")
    for scheme in SCHEMES:
        compiled = ullage.compile(model, inputs, quantize=scheme)
        found = compiled(*inputs)
        error = float((found - exact).norm() / exact.norm())
        cosine = float(torch.cosine_similarity(found, exact, -1).min())
        same = float((nearest(found) == nearest(exact)).float().mean())
        print(f"{scheme:18} {error:7.2%} {cosine:13.4f} {same:13.1%} {compiled.plan.resident_bytes / 2**20:13.1f}")
    return 0


def nearest(embeddings: torch.Tensor) -> torch.Tensor:
    """The number of the most similar other text, for each [texts]."""
    unit = torch.nn.functional.normalize(embeddings, dim=-1)
    return (unit @ unit.T).fill_diagonal_(-2.0).argmax(-1)


if __name__ == "__main__":
    sys.exit(main())
