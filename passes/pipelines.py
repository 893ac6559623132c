"""Named pipelines as data: which passes in which order, and a reason per line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ullage.graph.captured import CapturedModel
from ullage.graph.threads import one_torch_thread
from ullage.passes.clean.batch_norm import BatchNorm
from ullage.passes.clean.canonicalize import Canonicalize
from ullage.passes.clean.common_subexpressions import CommonSubexpressions
from ullage.passes.clean.dead_code import DeadCode
from ullage.passes.clean.flatten_products import FlattenProducts
from ullage.passes.clean.fold_constants import FoldConstants
from ullage.passes.clean.simplify import Simplify
from ullage.passes.clean.spelled_norms import SpelledNorms
from ullage.passes.clean.views import Views
from ullage.passes.fuse.attention import Attention
from ullage.passes.fuse.merge_linear import MergeLinear
from ullage.passes.fuse.recurrences import Recurrences
from ullage.passes.fuse.state_products import StateProducts
from ullage.passes.manager import Instrument, Pass, PassManager, Rewrite, parse_pipeline
from ullage.passes.quantize.bfloat16 import Bfloat16
from ullage.passes.quantize.int8 import Int8
from ullage.passes.quantize.residuals import NarrowResiduals
from ullage.passes.quantize.weight_only import WeightOnly
from ullage.passes.split.computed_convolutions import ComputedConvolutions
from ullage.passes.split.group_norms import SplitGroupNorms
from ullage.passes.split.plain_products import PlainProducts


@dataclass(frozen=True, slots=True)
class Line:
    """One pass of a pipeline and why it stands there."""

    step: Pass
    reason: str


_ROUND: tuple[Line, ...] = (
    Line(Canonicalize(), "one spelling per concept, so that everything later matches few patterns"),
    Line(FoldConstants(), "masks, positions and transposed weights are constants: compute or defer them"),
    Line(Simplify(), "numbers and uniform tensors that folding found make operators vanish"),
    Line(Views(), "what is left of layouts: chains composed, inverses cancelled"),
    Line(CommonSubexpressions(), "equal masks, casts and sizes are computed once"),
)
CLEAN: tuple[Line, ...] = (
    Line(Recurrences(), "loops that tracing unrolled are one node; first, since all else costs time for every step"),
    *_ROUND,
    Line(BatchNorm(), "a scale and a shift that the weights before it can carry"),
    *_ROUND,
    Line(SpelledNorms(), "a norm is one reduction kernel; after the rounds, since it matches canonical spellings only"),
    Line(Attention(), "no matrix of scores in memory; likewise"),
    Line(StateProducts(), "what reads a recurrence's states can be in its kernel if it is a sum; likewise"),
    *_ROUND,
    Line(MergeLinear(), "one product for query, key and value; last, since slices hide linears"),
    Line(SplitGroupNorms(), "statistics of large groups in parallel, and memory read twice and not three times"),
    Line(ComputedConvolutions(), "kernels take constant weights in floats of up to 32 bits; others are products"),
    Line(FlattenProducts(), "kernels take mm and bmm; last, since everything else is simpler on matmul"),
    Line(PlainProducts(), "what is left in dtypes without a matrix kernel is a sum of products"),
    Line(DeadCode(), "what no output needs"),
)
_FOR_OUR_KERNELS = (StateProducts, SplitGroupNorms, ComputedConvolutions, FlattenProducts, PlainProducts)
_FOLD = Line(FoldConstants(keep_codes=True), "as above, but weights that came in few bits stay in few bits")
PORTABLE: tuple[Line, ...] = tuple(
    _FOLD if isinstance(line.step, FoldConstants) else line
    for line in CLEAN
    if not isinstance(line.step, _FOR_OUR_KERNELS)
)
"""For other runtimes: without what only makes operators suit our kernels, such as norms in parts."""
PIPELINES: dict[str, tuple[Line, ...]] = {"clean": CLEAN, "portable": PORTABLE}
_KINDS = (
    Attention, BatchNorm, Bfloat16, Canonicalize, CommonSubexpressions, ComputedConvolutions, DeadCode,
    FlattenProducts, FoldConstants, Int8, MergeLinear, NarrowResiduals, PlainProducts, Recurrences, Simplify,
    SpelledNorms, SplitGroupNorms, StateProducts, Views, WeightOnly,
)  # fmt: skip
KNOWN: dict[str, type[Pass]] = {kind.name: kind for kind in _KINDS}


def passes_of(name: str) -> tuple[Pass, ...]:
    """The passes of a named pipeline; KeyError for an unknown name."""
    return tuple(line.step for line in PIPELINES[name])


def parse(text: str) -> tuple[Pass, ...]:
    """The passes that a text names, such as `canonicalize, fold_constants{limit_bytes=4096}`; InputError if unknown."""
    return parse_pipeline(text, KNOWN)


@one_torch_thread()
def run_clean(
    captured: CapturedModel, instruments: Sequence[Instrument] = (), fuel: int | None = None
) -> tuple[CapturedModel, list[Rewrite]]:
    """A cleaned copy of the model, and every rewrite that was made."""
    return PassManager(passes_of("clean"), tuple(instruments), fuel).run(captured)


@one_torch_thread()
def run_portable(captured: CapturedModel) -> tuple[CapturedModel, list[Rewrite]]:
    """A cleaned copy of the model for other runtimes, and every rewrite that was made."""
    return PassManager(passes_of("portable")).run(captured)
