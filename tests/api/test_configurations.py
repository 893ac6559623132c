"""Configurations of transformers and diffusers: a few are right, and what is wrong, dead or unsupported is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.configurations.attempt import Attempt, attempt, cause_of
from benchmarks.configurations.catalogue import Configuration, catalogue
from benchmarks.configurations.report import markdown, summary
from benchmarks.configurations.running import keeping, read_known, run_all
from benchmarks.configurations.shrinking import shrunken
from benchmarks.zoo import Sample
from ullage.errors import UnsupportedOperator

QUICK = (
    "mistral (causal language model)",
    "t5 (sequence to sequence)",
    "vit (image classification)",
    "AutoencoderTiny",
    "T2IAdapter",
    "DiT",
)


@pytest.mark.parametrize("name", QUICK)
def test_quick_ones_are_right(name: str) -> None:
    (found,) = (attempt(configuration) for configuration in catalogue() if configuration.name == name)
    assert (found.problem, found.truth) == ("", "module")
    assert found.least_bytes <= found.generous_bytes and found.error < 1e-5


def test_the_catalogue_has_the_breadth_that_it_is_for() -> None:
    found = catalogue()
    assert len({one.name for one in found}) == len(found) >= 150
    assert len({(one.library, one.architecture) for one in found}) >= 80


def test_configurations_are_shrunk_by_the_names_of_their_fields() -> None:
    from transformers import LlamaConfig, SwinConfig

    small = LlamaConfig(**shrunken(LlamaConfig, {"num_attention_heads": 4}))
    assert (small.hidden_size, small.num_hidden_layers, small.num_attention_heads) == (32, 2, 4)
    assert small.vocab_size == 120 and not small.use_cache
    assert shrunken(SwinConfig, {})["num_heads"] == [1, 2, 4, 8]


class Forgetful(nn.Module):
    """Gives another result when it is captured."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n] → [n]"""
        return x * 2 if torch.compiler.is_exporting() else x * 3


class Unsupported(nn.Module):
    """Uses an operator that has no lowering."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, n] → [n, n]"""
        return torch.linalg.qr(x)[0]


class Deadly(nn.Module):
    """Ends its process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n] → nothing"""
        os.kill(os.getpid(), signal.SIGKILL)
        return x


class Endless(nn.Module):
    """Never gives a result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n] → nothing"""
        signal.pause()
        return x


def configuration(module: Callable[[], nn.Module], *shape: int) -> Configuration:
    """One of a module and an input."""
    return Configuration(
        module.__name__, "here", module.__name__, "none", lambda: Sample(module(), (torch.randn(*shape),), {})
    )


def test_a_wrong_result_is_told() -> None:
    found = attempt(configuration(Forgetful, 5))
    assert found.stage == "judge" and "off by" in found.problem


def test_failures_are_grouped_by_cause() -> None:
    attempts = [attempt(configuration(module, 3, 3)) for module in (Unsupported, Unsupported)]
    text = summary(attempts)
    assert "0 of 2" in text and "2 × convert: no lowering for" in text and "qr" in text
    assert markdown(attempts).count("no lowering for") == 2


def test_a_cause_has_no_names_and_numbers() -> None:
    def cause(error: Exception) -> str:
        return cause_of("capture", error)

    assert cause(RuntimeError("input 'a' has 12 rows")) == cause(RuntimeError("input 'b' has 9 rows"))
    unsupported: Any = UnsupportedOperator({"aten.qr": ["layer.1"]}), UnsupportedOperator({"aten.qr": ["layer.2"]})
    assert cause(unsupported[0]) == cause(unsupported[1])


def test_a_dead_process_is_told() -> None:
    (found,) = run_all([configuration(Deadly, 2)], jobs=1)
    assert (found.stage, found.problem) == ("process", "the process ended with -9")


def test_an_endless_process_is_ended() -> None:
    (found,) = run_all([configuration(Endless, 2)], jobs=1, limit_seconds=0.1)
    assert (found.stage, found.problem) == ("process", "ran longer than the limit")


def test_what_is_known_is_kept(tmp_path: Path) -> None:
    known: dict[str, Attempt] = {}
    keep = keeping(tmp_path / "known.json", known)
    keep(attempt(configuration(Unsupported, 3, 3)))
    assert read_known(tmp_path / "known.json") == known
