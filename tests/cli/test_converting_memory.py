"""Converting holds the run's budget, a tenth more, and what interpreter and libraries take; no whole weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.cgroup import Outcome, run_limited, unavailable

BUDGET_BYTES = 12 << 20
LIBRARIES = """
import sys, torch, transformers
from ullage.cli import main
sys.exit(main(sys.argv[1:]))
"""


def bert_folder(folder: Path, layers: int, vocabulary: int) -> Path:
    """A Hugging Face folder of an encoder as wide as MiniLM."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def convert(folder: Path, limit_bytes: int | None = None) -> Outcome:
    """Convert in a process and a cgroup of its own."""
    command = [sys.executable, "-c", LIBRARIES, "convert", str(folder), "-o", str(folder / "out.ullage")]
    sizes = ["--budget", str(BUDGET_BYTES), "--input", "input_ids=int64[1,32]"]
    return run_limited([*command, *sizes], limit_bytes)


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_converting_needs_little_more_memory_than_running(tmp_path: Path) -> None:
    one_layer = bert_folder(tmp_path / "one", layers=1, vocabulary=100)
    whole = bert_folder(tmp_path / "whole", layers=8, vocabulary=30_000)
    weight_bytes = sum(path.stat().st_size for path in whole.glob("*.safetensors"))
    assert weight_bytes > 8 * BUDGET_BYTES
    assert convert(whole).returncode == 0  # fills the cache of kernels: compilers are processes of their own
    assert convert(one_layer).returncode == 0
    libraries = convert(one_layer).max_anonymous_bytes
    outcome = convert(whole, libraries + BUDGET_BYTES + BUDGET_BYTES // 10)
    assert (outcome.returncode, outcome.oom_killed) == (0, False), outcome.stderr
    assert (whole / "out.ullage").stat().st_size > weight_bytes
