"""The pipeline that models are cleaned by, for models in float64, whose values tell rewrites from rounding."""

from __future__ import annotations

from ullage.graph.captured import CapturedModel
from ullage.passes.manager import Instrument, PassManager, Rewrite
from ullage.passes.pipelines import passes_of
from ullage.passes.split.plain_products import PlainProducts


def run_in_float64(model: CapturedModel, *instruments: Instrument) -> tuple[CapturedModel, list[Rewrite]]:
    """A cleaned copy, and every rewrite; products in float64 stay whole, though no matrix kernel takes them."""
    steps = tuple(step for step in passes_of("clean") if not isinstance(step, PlainProducts))
    return PassManager(steps, instruments).run(model)
