"""Operator samples: families of small computations, each judged against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import ullage.graph.operators  # noqa: F401  (registers our operators)

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Sample:
    """One computation on inputs of given shapes; `exact` results (integers, booleans, moves) must be equal."""

    name: str
    run: Callable[..., torch.Tensor]
    inputs: Tensors


class Family(torch.nn.Module):
    """All samples of a family as one module: the inputs are those of the samples, one after another."""

    def __init__(self, samples: tuple[Sample, ...]) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, *inputs: torch.Tensor) -> Tensors:
        """The result of every sample."""
        position, results = 0, []
        for sample in self.samples:
            count = len(sample.inputs)
            results.append(sample.run(*inputs[position : position + count]))
            position += count
        return tuple(results)

    @property
    def inputs(self) -> Tensors:
        """All inputs."""
        return tuple(t for s in self.samples for t in s.inputs)


def floats(*shape: int, low: float = -3.0, high: float = 3.0) -> torch.Tensor:
    """Uniform float32 values."""
    return torch.empty(shape).uniform_(low, high)


def ints(*shape: int, low: int = -5, high: int = 6, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Uniform integers."""
    return torch.randint(low, high, shape, dtype=dtype)


def _unary() -> list[Sample]:
    plain = [
        "exp",
        "expm1",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "tanh",
        "sigmoid",
        "erf",
        "neg",
        "abs",
        "square",
        "sign",
        "floor",
        "ceil",
        "round",
        "trunc",
        "relu",
        "exp2",
    ]
    functional = [
        "gelu",
        "silu",
        "mish",
        "softplus",
        "elu",
        "selu",
        "celu",
        "leaky_relu",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "relu6",
        "logsigmoid",
    ]
    positive = ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"]
    unit = ["asin", "acos", "atan"]
    return (
        [Sample(n, getattr(torch, n), (floats(3, 37),)) for n in plain]
        + [Sample(n, getattr(F, n), (floats(2, 5, 19),)) for n in functional]
        + [Sample(n, getattr(torch, n), (floats(4, 33, low=0.01),)) for n in positive]
        + [Sample(n, getattr(torch, n), (floats(35, low=-1, high=1),)) for n in unit]
        + [
            Sample("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), (floats(3, 17),)),
            Sample("isnan", lambda x: torch.isnan(x / x.floor()), (floats(40, low=-2, high=2),)),
            Sample("logical_not", torch.logical_not, (ints(30, low=0, high=2),)),
            Sample("bitwise_not", torch.bitwise_not, (ints(30),)),
            Sample("exp_of_int", torch.exp, (ints(20),)),
        ]
    )


def _binary() -> list[Sample]:
    names = ["add", "sub", "mul", "div", "maximum", "minimum", "atan2", "fmod", "remainder"]
    found = [Sample(n, getattr(torch, n), (floats(4, 9), floats(4, 9, low=0.5))) for n in names]
    found += [Sample(f"{n}_broadcast", getattr(torch, n), (floats(3, 1, 17), floats(5, 1))) for n in names[:6]]
    found += [Sample(n, getattr(torch, n), (ints(21), ints(21))) for n in ["eq", "ne", "lt", "le", "gt", "ge"]]
    found += [
        Sample(f"{n}_int", getattr(torch, n), (ints(21), ints(21, low=1))) for n in ["add", "mul", "remainder", "fmod"]
    ]
    return [
        *found,
        Sample("floor_divide_int", lambda a, b: a // b, (ints(40), ints(40, low=1))),
        Sample("div_floor", lambda a, b: torch.div(a, b, rounding_mode="floor"), (floats(30), floats(30, low=0.5))),
        Sample("div_trunc_int", lambda a, b: torch.div(a, b, rounding_mode="trunc"), (ints(30), ints(30, low=1))),
        Sample("add_alpha", lambda a, b: torch.add(a, b, alpha=2.5), (floats(9), floats(9))),
        Sample("rsub", lambda a: 2.0 - a, (floats(9),)),
        Sample("pow_scalar", lambda a: a**2.7, (floats(30, low=0.1),)),
        Sample("pow_cube", lambda a: a**3, (floats(30),)),
        Sample("pow_tensor", torch.pow, (floats(30, low=0.1), floats(30))),
        Sample("where", lambda a, b: torch.where(a > 0.5, a, b), (floats(4, 9), floats(9))),
        Sample("masked_fill", lambda a: a.masked_fill(a < 0, float("-inf")), (floats(31),)),
        Sample("clamp", lambda a: a.clamp(-1, 1.5), (floats(31),)),
        Sample("clamp_min", lambda a: a.clamp(min=0.25), (floats(31),)),
        Sample("lerp", torch.lerp, (floats(7), floats(7), floats(7))),
        Sample("addcmul", lambda a, b, c: torch.addcmul(a, b, c, value=0.3), (floats(7), floats(7), floats(7))),
        Sample("bool_and", lambda a, b: (a > 0) & (b > 0), (floats(31), floats(31))),
        Sample("bool_or", lambda a, b: torch.logical_or(a > 0, b), (floats(31), ints(31, low=0, high=2))),
        Sample("int_shift", lambda a: (a + 3) * 2 - 1, (ints(5, 5, dtype=torch.int32),)),
        Sample("int_plus_float", lambda a, b: a + b, (ints(11), floats(11))),
        Sample("bool_sum", lambda a: (a > 0).sum(-1), (floats(5, 23),)),
    ]


def _reductions() -> list[Sample]:
    x = floats(3, 5, 67)
    return [
        *[Sample(f"{n}_last", lambda a, n=n: getattr(a, n)(-1), (x,)) for n in ["sum", "mean", "amax", "amin", "prod"]],
        *[
            Sample(f"{n}_middle", lambda a, n=n: getattr(a, n)(1), (x,))
            for n in ["sum", "mean", "amax", "argmax", "argmin"]
        ],
        *[
            Sample(f"{n}_keep", lambda a, n=n: getattr(a, n)((0, 2), keepdim=True), (x,))
            for n in ["sum", "mean", "amax"]
        ],
        Sample("sum_all", lambda a: a.sum(), (x,)),
        Sample("sum_wide", lambda a: a.sum(-1), (floats(2, 5000),)),
        Sample("mean_spatial", lambda a: a.mean((2, 3)), (floats(2, 5, 7, 7),)),
        Sample("var", lambda a: a.var(-1), (x,)),
        Sample("var_biased", lambda a: a.var(-1, unbiased=False), (x,)),
        Sample("std", lambda a: a.std(1), (x,)),
        Sample("any", lambda a: (a > 2.9).any(-1), (x,)),
        Sample("all", lambda a: (a > -2.9).all(1), (x,)),
        Sample("argmax_ties", lambda a: a.round().argmax(-1), (x,)),
        Sample("logsumexp", lambda a: torch.logsumexp(a, -1), (x,)),
        Sample("norm2", lambda a: torch.linalg.vector_norm(a, 2, -1), (x,)),
        Sample("norm1", lambda a: torch.linalg.vector_norm(a, 1, 1), (x,)),
        Sample("softmax", lambda a: a.softmax(-1), (x,)),
        Sample("softmax_middle", lambda a: a.softmax(1), (x,)),
        Sample("log_softmax", lambda a: a.log_softmax(-1), (x,)),
        Sample("cumsum", lambda a: a.cumsum(1), (x,)),
        Sample("cumsum_int", lambda a: a.cumsum(-1), (ints(3, 41),)),
        Sample("cumsum_amid_arithmetic", lambda a: (a * 2).exp().cumsum(1).log1p() * a, (x / 3,)),
        *_recurrences(),
        Sample("normalize", lambda a: F.normalize(a, dim=-1), (x,)),
        Sample("scaled_softmax", lambda a, m: (a * 0.3 + m).softmax(-1) * 2, (x, floats(67))),
    ]


def _recurrences() -> list[Sample]:
    scan = torch.ops.ullage.linear_scan
    a, b = floats(2, 17, 37, 4, low=-0.9, high=0.9), floats(2, 17, 37, 4)
    c, h, delta, rate = floats(2, 17, 4), floats(2, 37, 4), floats(2, 17, 37, low=0.01, high=0.2), floats(37, 4, high=0)
    return [
        *(Sample(f"scan_{dim}", lambda a, b, dim=dim: scan(a, b, None, dim), (a, b)) for dim in range(4)),
        Sample("scan_started", lambda a, b, h: scan(a, b, h, 1), (a, b, h)),
        Sample("scan_of_one_step", lambda a, b, h: scan(a[:, :1], b[:, :1], h, 1), (a, b, h)),
        Sample("scan_with_one_factor", lambda a, b: scan(a[:1, :1, :1, :1], b, None, 1).tanh(), (a, b)),
        Sample("scan_and_sum", lambda a, b, c: (scan(a, b, None, 1) * c[:, :, None]).sum(-1), (a, b, c)),
        Sample("scan_and_long_sum", lambda a, b: scan(a, b, None, 1).sum((2, 3)), (a, b)),
        Sample("scan_of_doubles", lambda a, b: scan(a.double(), b.double(), None, 1).sum(-1), (a, b)),
        Sample(
            "selective_scan",
            lambda d, r, b, c, u: (
                (scan((d[..., None] * r).exp(), d[..., None] * b[:, :, :1] * u, None, 1) * c[:, :, None]).sum(-1)
                + u[..., 0] * F.silu(d)
            ).transpose(1, 2),
            (delta, rate, b, c, floats(2, 17, 37, 1)),
        ),
    ]


def _norms() -> list[Sample]:
    return [
        Sample("layer_norm", lambda a, w, b: F.layer_norm(a, (65,), w, b), (floats(4, 65), floats(65), floats(65))),
        Sample("layer_norm_plain", lambda a: F.layer_norm(a, (3, 9)), (floats(4, 3, 9),)),
        Sample("layer_norm_residual", lambda a, b: F.layer_norm(a + b, (33,)) * b, (floats(4, 33), floats(4, 33))),
        Sample("rms_norm", lambda a, w: F.rms_norm(a, (48,), w, 1e-6), (floats(5, 48), floats(48))),
        Sample("group_norm", lambda a, w, b: F.group_norm(a, 4, w, b), (floats(2, 12, 5, 5), floats(12), floats(12))),
        Sample("group_norm_silu", lambda a: F.silu(F.group_norm(a, 2)), (floats(2, 6, 9),)),
        Sample(
            "batch_norm", lambda a, m, v: F.batch_norm(a, m, v), (floats(2, 6, 5, 5), floats(6), floats(6, low=0.5))
        ),
        Sample("instance_norm", F.instance_norm, (floats(2, 6, 5, 5),)),
    ]


def _matmul() -> list[Sample]:
    return [
        Sample("linear_variable", F.linear, (floats(7, 19), floats(23, 19), floats(23))),
        Sample("mm", torch.mm, (floats(9, 33), floats(33, 21))),
        Sample("mm_transposed", lambda a, b: a.t() @ b, (floats(33, 9), floats(33, 21))),
        Sample("bmm", torch.bmm, (floats(3, 9, 17), floats(3, 17, 50))),
        Sample("bmm_kt", lambda a, b: a @ b.transpose(1, 2), (floats(3, 9, 17), floats(3, 50, 17))),
        Sample("matmul_4d", torch.matmul, (floats(2, 3, 9, 17), floats(2, 3, 17, 5))),
        Sample("matmul_epilogue", lambda a, b, c: F.relu(a @ b + c), (floats(2, 9, 17), floats(2, 17, 5), floats(5))),
        Sample("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b), (floats(2, 5, 7), floats(2, 9, 7))),
        Sample("outer", torch.outer, (floats(9), floats(11))),
        Sample(
            "attention", F.scaled_dot_product_attention,
            (floats(2, 3, 19, 8), floats(2, 3, 27, 8), floats(2, 3, 27, 8)),
        ),
        Sample(
            "attention_causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            (floats(1, 2, 33, 16), floats(1, 2, 33, 16), floats(1, 2, 33, 16)),
        ),
        Sample(
            "attention_masked",
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m > 0, scale=0.2),
            (floats(2, 2, 9, 16), floats(2, 2, 12, 16), floats(2, 2, 12, 16), floats(2, 1, 1, 12, low=0.1)),
        ),
        Sample(
            "attention_bias",
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
            (floats(2, 2, 9, 16), floats(2, 2, 12, 16), floats(2, 2, 12, 16), floats(1, 2, 9, 12)),
        ),
        Sample(
            "attention_grouped",
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
            (floats(1, 4, 9, 16), floats(1, 2, 12, 16), floats(1, 2, 12, 16)),
        ),
    ]  # fmt: skip


def _movement() -> list[Sample]:
    return [
        Sample("permute", lambda a: a.permute(2, 0, 1) + 0, (floats(3, 4, 5),)),
        Sample("transpose_sum", lambda a, b: a.t() + b, (floats(33, 17), floats(17, 33))),
        Sample("view_split", lambda a: a.view(4, 3, 7).transpose(0, 1).reshape(3, 28) * 2, (floats(12, 7),)),
        Sample("cat", lambda a, b: torch.cat([a, b], 1), (floats(3, 4), floats(3, 5))),
        Sample("cat_fused", lambda a, b: torch.cat([a * 2, -b], 0).exp(), (floats(3, 4), floats(2, 4))),
        Sample("rotate_half", lambda a, c: torch.cat([-a[..., 4:], a[..., :4]], -1) * c + a, (floats(3, 8), floats(8))),
        Sample("stack", lambda a, b: torch.stack([a, b], 1), (floats(3, 4), floats(3, 4))),
        Sample("pad", lambda a: F.pad(a, (1, 2, 0, 3), value=0.5), (floats(3, 4),)),
        Sample("pad_negative", lambda a: F.pad(a, (-1, 2)), (floats(3, 4),)),
        Sample("slice", lambda a: a[1:4, ::2] + 1, (floats(5, 9),)),
        Sample("select", lambda a: a[:, -1] * 2, (floats(5, 9),)),
        Sample("flip", lambda a: a.flip(0, 2), (floats(2, 3, 4),)),
        Sample("roll", lambda a: a.roll((1, -2), (0, 1)), (floats(5, 7),)),
        Sample("repeat", lambda a: a.repeat(2, 3), (floats(2, 3),)),
        Sample("expand", lambda a: a.expand(4, 3, 5) * 1.5, (floats(3, 1),)),
        Sample("index_select", lambda a, i: a.index_select(1, i), (floats(3, 9), ints(4, low=0, high=9))),
        Sample("gather", lambda a, i: a.gather(1, i), (floats(3, 9), ints(3, 4, low=0, high=9))),
        Sample("index", lambda a, i, j: a[i, j], (floats(5, 9), ints(7, low=-5, high=5), ints(7, low=0, high=9))),
        Sample("index_middle", lambda a, i: a[:, i], (floats(3, 9, 2), ints(4, low=0, high=9))),
        Sample("tril", lambda a: a.tril(1), (floats(6, 6),)),
        Sample("triu", lambda a: a.triu(-1), (floats(2, 5, 6),)),
        Sample("arange_mask", lambda a: a * (torch.arange(9) % 3 == 0), (floats(4, 9),)),
        Sample("chunk", lambda a: a.chunk(3, -1)[1] * a.chunk(3, -1)[2], (floats(4, 9),)),
        Sample("unbind", lambda a: a.unbind(0)[1] - a.unbind(0)[0], (floats(2, 9),)),
        Sample("glu", lambda a: F.glu(a, -1), (floats(3, 8),)),
        Sample("pixel_shuffle", lambda a: F.pixel_shuffle(a, 2), (floats(1, 8, 3, 3),)),
        Sample("nearest", lambda a: F.interpolate(a, scale_factor=2), (floats(1, 2, 3, 5),)),
        Sample("bilinear", lambda a: F.interpolate(a, size=(7, 9), mode="bilinear"), (floats(1, 2, 3, 5),)),
        Sample(
            "bilinear_corners",
            lambda a: F.interpolate(a, size=(7, 9), mode="bilinear", align_corners=True),
            (floats(1, 2, 3, 5),),
        ),
        Sample("cast_int", lambda a: a.to(torch.int32), (floats(19),)),
        Sample("cast_bool", lambda a: a.bool(), (ints(19, low=-1, high=2),)),
        Sample("cast_half", lambda a: a.half().float(), (floats(19),)),
        Sample("cast_bfloat", lambda a: a.bfloat16().float(), (floats(19),)),
        Sample("double", lambda a: (a.double() * 1.1).exp(), (floats(19),)),
    ]


def _pooling() -> list[Sample]:
    return [
        Sample("max_pool", lambda a: F.max_pool2d(a, 3, 2, 1), (floats(2, 3, 9, 11),)),
        Sample("max_pool_ceil", lambda a: F.max_pool2d(a, 2, 2, ceil_mode=True), (floats(1, 3, 9, 11),)),
        Sample("max_pool_dilated", lambda a: F.max_pool2d(a, 2, 1, 0, 2), (floats(1, 3, 9, 11),)),
        Sample("avg_pool", lambda a: F.avg_pool2d(a, 2), (floats(1, 3, 8, 6),)),
        Sample("avg_pool_pad", lambda a: F.avg_pool2d(a, 3, 2, 1), (floats(1, 3, 8, 6),)),
        Sample("avg_pool_exclude", lambda a: F.avg_pool2d(a, 3, 2, 1, count_include_pad=False), (floats(1, 3, 8, 6),)),
        Sample("avg_pool_ceil", lambda a: F.avg_pool2d(a, 100, ceil_mode=True), (floats(1, 3, 8, 6),)),
        Sample("adaptive_one", lambda a: F.adaptive_avg_pool2d(a, 1), (floats(2, 3, 8, 6),)),
        Sample("adaptive", lambda a: F.adaptive_avg_pool2d(a, (3, 4)), (floats(1, 3, 8, 6),)),
    ]


def _ordering(name: str) -> Callable[[], list[Sample]]:
    def samples() -> list[Sample]:
        from tests import samples_ordering

        return list(getattr(samples_ordering, name)())

    return samples


FAMILIES: dict[str, Callable[[], list[Sample]]] = {
    "unary": _unary, "binary": _binary, "reductions": _reductions, "norms": _norms, "matmul": _matmul,
    "movement": _movement, "pooling": _pooling, "scatters": _ordering("scatters"), "orders": _ordering("orders"),
    "empties": _ordering("empties"),
}  # fmt: skip


def family(name: str) -> Family:
    """The samples of a family with fixed random inputs."""
    torch.manual_seed(sum(map(ord, name)))
    return Family(tuple(FAMILIES[name]())).eval()
