"""Operators of com.microsoft that exporters and quantizers emit, beside their formulas in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from scipy.special import erf

from tests.frontends.onnx.test_capture import floats, model_of
from ullage.frontends.onnx.module import OnnxModule
from ullage.frontends.onnx.read import from_proto

X = floats(2, 3, 16)


def results(
    kind: str, weights: dict[str, np.ndarray], inputs: list[str], outputs: int = 1, **attributes: Any
) -> list[np.ndarray]:
    """What one node makes of `x` and weights."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, inputs, names, domain="com.microsoft", **attributes)
    wanted = [name for i, name in enumerate(names) if i in (0, outputs - 1)]
    model: onnx.ModelProto = model_of([node], {"x": list(X.shape)}, wanted, weights)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return [found.numpy() for found in OnnxModule(from_proto(model))(torch.from_numpy(X))]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_activations() -> None:
    bias = floats(16)
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(results("Gelu", {}, ["x"])[0], gelu(X), **close)
    np.testing.assert_allclose(results("BiasGelu", {"b": bias}, ["x", "b"])[0], gelu(X + bias), **close)
    np.testing.assert_allclose(results("FastGelu", {"b": bias}, ["x", "b"])[0], tanh_gelu(X + bias), **close)
    np.testing.assert_allclose(results("FastGelu", {}, ["x"])[0], tanh_gelu(X), **close)
    sigmoid = 1 / (1 + np.exp(-1.702 * X))
    np.testing.assert_allclose(results("QuickGelu", {}, ["x"], alpha=1.702)[0], X * sigmoid, **close)


def norm(x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)


@pytest.mark.parametrize("bias", [False, True])
def test_norms_of_sums(bias: bool) -> None:
    weights = {"skip": floats(2, 3, 16), "scale": floats(16), "shift": floats(16)}
    weights |= {"b": floats(16)} if bias else {}
    total = X + weights["skip"] + (weights["b"] if bias else 0)
    inputs = ["x", "skip", "scale", "shift", *(["b"] if bias else [])]
    found, summed = results("SkipLayerNormalization", weights, inputs, 4, epsilon=1e-3)
    np.testing.assert_allclose(found, norm(total, 1e-3) * weights["scale"] + weights["shift"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(summed, total, rtol=1e-6)
    del weights["shift"]
    inputs = ["x", "skip", "scale", *(["b"] if bias else [])]
    found, summed = results("SkipSimplifiedLayerNormalization", weights, inputs, 4, epsilon=1e-3)
    simple = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-3) * weights["scale"]
    np.testing.assert_allclose(found, simple, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(summed, total, rtol=1e-6)


def test_fused_products() -> None:
    weight = floats(2, 5, 16)
    (found,) = results("FusedMatMul", {"w": weight}, ["x", "w"], alpha=0.5, transB=1)
    np.testing.assert_allclose(found, 0.5 * X @ weight.transpose(0, 2, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", ["none", "packed", "floats"])
def test_products_with_packed_weights(bits: int, zeros: str) -> None:
    """Codes of a byte start at its lowest bits; a row's last block may be cut short, its last byte half empty."""
    rng, n, k, block = np.random.default_rng(bits), 6, 16, 16
    per_byte, blocks = 8 // bits, 1
    codes = rng.integers(0, 1 << bits, (n, blocks, block))
    scales, points = floats(n, blocks), rng.integers(0, 1 << bits, (n, blocks))
    weights = {"w": packed(codes, bits).reshape(n, blocks, block // per_byte), "s": scales.reshape(-1)}
    point: Any = 1 << (bits - 1)
    if zeros == "packed":
        weights["z"], point = packed(points, bits).reshape(-1), points[..., None]
    if zeros == "floats":
        weights["z"], point = points.astype(np.float32).reshape(-1), points[..., None]
    inputs = ["x", "w", "s", *(["z"] if zeros != "none" else [])]
    (found,) = results("MatMulNBits", weights, inputs, N=n, K=k, bits=bits, block_size=block)
    matrix = ((codes - point) * scales[..., None]).reshape(n, k)
    np.testing.assert_allclose(found, X @ matrix.T, rtol=1e-4, atol=1e-4)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of the last dimension in bytes, the first one lowest; the last byte is filled up with zeros."""
    per_byte = 8 // bits
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % per_byte)])
    parts = codes.reshape(*codes.shape[:-1], -1, per_byte) << (bits * np.arange(per_byte))
    return parts.sum(-1).astype(np.uint8)
