"""No operator of a captured graph gives or takes complex numbers."""

from __future__ import annotations

from torch.fx import Graph

from ullage.frontends.complex_pairs import RULES, Rewriter, is_complex
from ullage.frontends.fourier import FOURIER


def without_complex(graph: Graph) -> None:
    """Rewrite a graph in place, complex tensors as pairs of real ones.

    CaptureError for complex inputs, outputs and constants, UnsupportedOperator for what has no form on pairs.
    """
    if any(is_complex(node) for node in graph.nodes):
        Rewriter(graph, {**RULES, **FOURIER}).run()
        graph.eliminate_dead_code()
        graph.lint()
