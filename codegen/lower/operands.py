"""Operands of template kernels: where each reads its tensors, and what it asks of their memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ullage.codegen.lower.index import ONE
from ullage.codegen.lower.values import View
from ullage.codegen.templates import PackedDepthwise, PackedPanels


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed weight: the constant's name in the artifact and its layout."""

    name: str
    layout: PackedPanels | PackedDepthwise


@dataclass(frozen=True, slots=True)
class LinearOperands:
    """`x[..., k]` and a weight [n, k]: packed if it is a constant."""

    x: View
    weight: Packed | View


@dataclass(frozen=True, slots=True)
class ProductOperands:
    """Two variable matrices [.., m, k] and [.., k, n]."""

    left: View
    right: View


@dataclass(frozen=True, slots=True)
class ConvolutionOperands:
    """Activations with contiguous channels and a packed weight."""

    x: View
    weight: Packed


@dataclass(frozen=True, slots=True)
class AttentionOperands:
    """Queries, keys and values of 3 or 4 dimensions, and a mask broadcast to [batch, heads, queries, keys]."""

    q: View
    k: View
    v: View
    mask: View | None


Operands = LinearOperands | ProductOperands | ConvolutionOperands | AttentionOperands
Requirement = Callable[[View], bool]


def inner_contiguous(view: View) -> bool:
    """The last dimension has stride 1 (or size 1)."""
    return view.shape[-1] == ONE or view.strides[-1] == ONE


def either_contiguous(view: View) -> bool:
    """One of the last two dimensions has stride 1."""
    return view.strides[-1] == ONE or view.strides[-2] == ONE


def channels_contiguous(view: View) -> bool:
    """Dimension 1 (the channels) has stride 1."""
    return view.strides[1] == ONE


def anything(view: View) -> bool:
    """No requirement."""
    return True
