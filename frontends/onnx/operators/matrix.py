"""Matrix products."""

from __future__ import annotations

import torch

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor
_MOST_ROWS = 64


@operator("MatMul")
def _matmul(call: Call) -> Tensor:
    return torch.matmul(call.tensor(0), call.tensor(1))


@operator("Gemm", ignores=("broadcast",))
def _gemm(call: Call) -> Tensor:
    """`broadcast` of old operator sets allows what newer ones always allow."""
    a, b = call.tensor(0), call.tensor(1)
    a = a.t() if call.attribute("transA", 0) else a
    b = b.t() if call.attribute("transB", 0) else b
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    product = torch.matmul(a, b)
    if alpha != 1:
        product = _scaled(product, alpha)
    c = call.optional(2)
    return product if c is None else product + (c if beta == 1 else _scaled(c, beta))


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x * factor if x.is_floating_point() else (x * factor).to(x.dtype)


@operator("FusedMatMul", domain="com.microsoft")
def _fused_matmul(call: Call) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        raise call.error("products over a transposed batch dimension are not supported")
    a = a.transpose(-1, -2) if call.attribute("transA", 0) else a
    b = b.transpose(-1, -2) if call.attribute("transB", 0) else b
    product: Tensor = torch.matmul(a, b) * call.attribute("alpha", 1.0)
    return product


@operator("Einsum")
def _einsum(call: Call) -> Tensor:
    tensors = [call.tensor(i) for i in range(call.count)]
    return torch.einsum(call.attribute("equation").replace(" ", ""), *tensors)


@operator("Det")
def _det(call: Call) -> Tensor:
    """By elimination with the largest pivot of each column, one column after another."""
    x = call.tensor()
    size = int(x.shape[-1])
    if size > _MOST_ROWS:
        raise call.error(f"determinants of more than {_MOST_ROWS} rows are not supported")
    total = torch.ones(x.shape[:-2], dtype=x.dtype)
    for _ in range(size):
        first = torch.argmax(x.select(-1, 0).abs(), -1, keepdim=True)
        chosen = torch.arange(x.shape[-2]) == first
        pivots = (x * chosen.unsqueeze(-1).to(x.dtype)).sum(-2)
        pivot = pivots.select(-1, 0)
        total = total * torch.where(first.squeeze(-1) == 0, pivot, -pivot)
        x = torch.where(chosen.unsqueeze(-1), x.narrow(-2, 0, 1), x).narrow(-2, 1, x.shape[-2] - 1)
        factors = x.narrow(-1, 0, 1) / torch.where(pivot == 0, torch.ones_like(pivot), pivot)[..., None, None]
        x = (x - factors * pivots.unsqueeze(-2)).narrow(-1, 1, x.shape[-1] - 1)
    return total


@operator("CumSum", "CumProd")
def _cumulated(call: Call) -> Tensor:
    """Running sums or products; exclusive ones begin with 0 or 1 and leave the last element out."""
    x, axis = call.tensor(), int(call.scalar(1))
    backwards, product = call.attribute("reverse", 0), call.node.op_type == "CumProd"
    y = x.flip(axis) if backwards else x
    if call.attribute("exclusive", 0):
        first = torch.full_like(y.narrow(axis, 0, 1), 1 if product else 0)
        y = torch.cat([first, y.narrow(axis, 0, y.shape[axis] - 1)], axis)
    total = (torch.cumprod if product else torch.cumsum)(y, axis).to(x.dtype)
    return total.flip(axis) if backwards else total
