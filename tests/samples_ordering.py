"""Samples of operators that write at computed places, and of those that order elements, in all dtypes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.samples import Sample, floats, ints

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
ALL = (*FLOATS, *INTEGERS, torch.bool)
SOME = (torch.float64, torch.bfloat16, torch.int16)
PAIR = (torch.float32, torch.int32)
Run = Callable[..., Tensor]


def values(dtype: torch.dtype, *shape: int) -> Tensor:
    """Values with repetitions, the halves and quarters of small integers."""
    if dtype.is_floating_point:
        return (ints(*shape, low=-12, high=13).double() / 4).to(dtype)
    low = 0 if dtype in (torch.uint8, torch.bool) else -5
    return ints(*shape, low=low, high=2 if dtype == torch.bool else 7).to(dtype)


def _each(
    name: str, dtypes: tuple[torch.dtype, ...], run: Run, *inputs: Callable[[torch.dtype], Tensor]
) -> list[Sample]:
    """One sample for each dtype; NumPy has no bfloat16, so that is converted inside."""

    def narrow(*given: Tensor) -> Tensor:
        if given[0].dtype == torch.float64:
            return run(*given)
        half = [t.to(torch.bfloat16) if t.dtype.is_floating_point else t for t in given]
        return run(*half).to(given[0].dtype)

    samples = []
    for dtype in dtypes:
        made = tuple(make(dtype) for make in inputs)
        if dtype == torch.bfloat16:
            made = tuple(t.float() if t.dtype == dtype else t for t in made)
        samples.append(Sample(f"{name}_{dtype}", narrow if dtype == torch.bfloat16 else run, made))
    return samples


def _of(*shape: int) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: values(dtype, *shape)


def _places(high: int, *shape: int, low: int = 0) -> Callable[[torch.dtype], Tensor]:
    return lambda _dtype: ints(*shape, low=low, high=high)


def reduced(reduce: str, include_self: bool, dim: int) -> Run:
    """scatter_reduce with its options."""
    return lambda x, i, s: x.scatter_reduce(dim, i, s, reduce, include_self=include_self)


def scatters() -> list[Sample]:
    """Writes at computed places, with places that meet."""
    nine, src = _of(5, 9), _of(4, 7)
    across, along = _places(5, 3, 7), _places(9, 4, 6)
    put = torch.ops.aten.index_put.default
    return [
        *_each("scatter", ALL[::2], lambda x, i, s: x.scatter(0, i, s), nine, across, src),
        *_each("scatter_last", PAIR, lambda x, i, s: x.scatter(-1, i, s), nine, along, src),
        *_each("scatter_value", (torch.float16, torch.bool), lambda x, i: x.scatter(0, i, 1), nine, across),
        *_each(
            "scatter_add",
            (torch.bfloat16, torch.uint8),
            lambda x, i, s: x.scatter_add(1, i, s),
            nine,
            along,
            src,
        ),
        *_each(
            "scatter_multiply", FLOATS[1:2], lambda x, i, s: x.scatter(0, i, s, reduce="multiply"), nine, across, src
        ),
        *_each("scatter_add_value", FLOATS[1:2], lambda x, i: x.scatter(0, i, 2, reduce="add"), nine, across),
        *[
            sample
            for kind in ("sum", "prod", "mean", "amax", "amin")
            for kept in (True, False)
            for sample in _each(
                f"scatter_reduce_{kind}_{kept}",
                SOME[:1] if kept else PAIR[1:],
                reduced(kind, kept, 0),
                nine,
                across,
                src,
            )
        ],
        Sample(
            "scatter_reduce_nan",
            reduced("amax", True, 0),
            (torch.tensor([1.0, 2, 3]), torch.tensor([0, 0, 2]), torch.tensor([float("nan"), 5, 1])),
        ),
        Sample(
            "scatter_one", lambda x, i, s: x.scatter(0, i, s), (torch.tensor(1.0), torch.tensor(0), torch.tensor(2.0))
        ),
        Sample(
            "scatter_computed",
            lambda x, i, s: (x * 2).scatter(0, (i + 1) % 5, s.exp()) + 1,
            (floats(5, 9), ints(3, 7, low=0, high=5), floats(4, 7)),
        ),
        Sample(
            "scatter_3d",
            lambda x, i, s: x.scatter_add(1, i, s),
            (floats(3, 6, 35), ints(2, 8, 35, low=0, high=6), floats(2, 8, 35)),
        ),
        Sample("scatter_itself", lambda x, i: x.scatter(1, i, x), (floats(4, 9), ints(4, 9, low=0, high=9))),
        Sample(
            "scatter_chain",
            lambda x, i, s: (x + 1).scatter(0, i, s).scatter_add(0, i, s).exp(),
            (floats(5, 9), ints(3, 7, low=0, high=5), floats(4, 7)),
        ),
        Sample(
            "one_hot_by_scatter", lambda i: torch.zeros(4, 6).scatter(1, i[:, None], 1.0), (ints(4, low=0, high=6),)
        ),
        *_each("index_put", SOME, lambda x, i, s: put(x, [i], s), nine, _places(5, 6, low=-5), _of(6, 9)),
        *_each(
            "index_put_add",
            (torch.float16, torch.bool),
            lambda x, i, s: put(x, [i], s, True),
            nine,
            _places(5, 16),
            _of(9),
        ),
        Sample(
            "index_put_two",
            lambda x, i, j, s: put(x, [i, None, j], s),
            (floats(3, 4, 5), ints(6, low=-3, high=3), ints(2, 1, low=-5, high=5), floats(2, 6, 4)),
        ),
        Sample(
            "index_put_adjacent",
            lambda x, i, j, s: put(x, [None, i, j], s, True),
            (floats(3, 4, 5), ints(6, low=0, high=4), ints(2, 1, low=0, high=5), floats(3, 2, 6)),
        ),
        Sample(
            "index_put_all",
            lambda x, i, j, s: put(x, [i, j], s, True),
            (floats(3, 4), ints(40, low=0, high=3), ints(40, low=0, high=4), floats(40)),
        ),
        Sample(
            "index_put_last",
            lambda x, i, s: put(x, [None, i], s),
            (floats(33, 40), ints(3, low=0, high=40), floats(33, 3)),
        ),
        Sample(
            "index_put_scalar", lambda x, i: put(x, [i], x.new_full((), 2.5)), (floats(5, 4), ints(3, low=0, high=5))
        ),
        Sample("index_put_single_place", lambda x, s: put(x, [torch.tensor(2)], s), (floats(5, 4), floats(4))),
        Sample("index_put_mask", lambda x, s: put(x, [x > 0], s), (floats(5, 9), floats(1))),
        Sample(
            "index_put_row_mask",
            lambda x, m, s: put(x, [None, m > 0], s),
            (floats(3, 5, 4), ints(5, low=0, high=2), floats(4)),
        ),
        Sample("index_put_mask_add", lambda x, s: put(x, [x > 0], s, True), (floats(5, 9), floats(1))),
        Sample(
            "cache",
            lambda k, p, n: put(k, [None, None, p], n),
            (floats(1, 2, 17, 8), ints(1, low=0, high=17), floats(1, 2, 1, 8)),
        ),
        *_each(
            "index_add",
            (torch.float32, torch.bfloat16, torch.int32),
            lambda x, i, s: x.index_add(1, i, s, alpha=2),
            nine,
            _places(9, 20),
            _of(5, 20),
        ),
        *_each(
            "index_copy",
            (torch.float32, torch.bool),
            lambda x, i, s: x.index_copy(0, i, s),
            nine,
            _places(5, 4),
            _of(4, 9),
        ),
        *_each("index_fill", (torch.float32, torch.int16), lambda x, i: x.index_fill(1, i, 3), nine, _places(9, 4)),
        *[
            sample
            for kind in ("mean", "amin")
            for kept in (True, False)
            for sample in _each(
                f"index_reduce_{kind}_{kept}",
                PAIR[:1] if kept else PAIR[1:],
                lambda x, i, s, k=kind, c=kept: x.index_reduce(1, i, s, k, include_self=c),
                nine,
                _places(9, 7),
                _of(5, 7),
            )
        ],
        *_each(
            "masked_scatter",
            (torch.float32, torch.int8),
            lambda x, m, s: x.masked_scatter(m > 0, s),
            nine,
            _places(2, 5, 9),
            _of(60),
        ),
        Sample(
            "put",
            lambda x, i, s: torch.put(x, i, s, accumulate=True),
            (floats(4, 5), ints(3, 4, low=-20, high=20), floats(3, 4)),
        ),
        Sample("slice_scatter", lambda x, s: torch.slice_scatter(x, s, 1, 1, 8, 3), (floats(4, 9), floats(4, 3))),
        Sample("diagonal_scatter", lambda x, s: torch.diagonal_scatter(x, s, -1), (floats(4, 9), floats(3))),
        Sample("fold", lambda x: F.fold(x, (6, 5), 3), (floats(2, 18, 12),)),
        Sample(
            "unpool",
            lambda x, i: F.max_unpool2d(x, i, 2),
            (floats(1, 2, 3, 3), torch.arange(18).reshape(1, 2, 3, 3) % 9 * 4),
        ),
    ]


def _stable(dim: int, descending: bool, result: int) -> Run:
    return lambda x: x.sort(dim=dim, descending=descending, stable=True)[result]


def orders() -> list[Sample]:
    """Sorts, selections and running extremes, with values that are equal, infinite and undefined."""
    special = torch.tensor([1.0, float("nan"), -0.0, 0.0, float("inf"), -1.0, float("-inf"), float("nan"), 0.0])
    rows, odd = _of(5, 37), floats(3, 11)
    return [
        *[
            sample
            for down in (False, True)
            for result in (0, 1)
            for sample in _each(
                f"sort_{down}_{result}", ALL if down and result else PAIR, _stable(-1, down, result), rows
            )
        ],
        *[
            Sample(f"sort_special_{d}_{r}", _stable(0, d, r), (special.to(t),))
            for d in (False, True)
            for r in (0, 1)
            for t in (torch.float32, torch.float64, torch.float16)
        ],
        Sample("sort_middle", _stable(1, True, 1), (values(torch.float32, 3, 50, 4),)),
        Sample("sort_long", _stable(0, False, 0), (floats(3000),)),
        Sample("sort_long_double", _stable(0, True, 1), (values(torch.float64, 700),)),
        Sample("sort_default", lambda x: x.sort().values, (odd,)),
        Sample("sort_of_computed", lambda x: (x * 2).exp().sort(1).values.sum(1), (odd,)),
        Sample(
            "sort_both",
            lambda x: (lambda s: s.values * s.indices)(x.sort(dim=1, stable=True)),
            (values(torch.float32, 3, 40),),
        ),
        Sample("sort_one", lambda x: x.sort().values, (floats(4, 1),)),
        Sample("argsort", lambda x: x.argsort(dim=0, descending=True, stable=True), (values(torch.float32, 45, 3),)),
        Sample("msort", torch.msort, (floats(33, 2),)),
        *[
            sample
            for k, n in ((1, 3), (5, 40), (9, 300), (37, 37), (20, 2000))
            for sample in _each(
                f"topk_{k}_{n}", SOME if n == 300 else PAIR[:1], lambda x, k=k: x.topk(k).values, _of(3, n)
            )
        ],
        Sample("topk_smallest", lambda x: x.topk(7, 1, largest=False).indices, (floats(3, 500, 2),)),
        Sample("topk_unsorted", lambda x: x.topk(7, 1, sorted=False).values.sort(1).values, (floats(3, 500, 2),)),
        Sample("topk_special", lambda x: x.topk(4).values, (special,)),
        Sample("topk_gathers", lambda x: x.gather(1, x.topk(6, 1).indices), (values(torch.float32, 4, 90),)),
        Sample(
            "routing",
            lambda x: (lambda t: torch.zeros_like(x).scatter(1, t.indices, t.values.softmax(1)))(
                x.softmax(-1).topk(2, 1)
            ),
            (floats(7, 16),),
        ),
        Sample("kthvalue", lambda x: x.kthvalue(4, 1).values, (odd,)),
        Sample("kthvalue_place", lambda x: x.kthvalue(4, 1, True).indices, (odd,)),
        Sample("median", torch.median, (odd,)),
        Sample("median_values", lambda x: x.median(0).values, (values(torch.int32, 6, 4),)),
        Sample("median_places", lambda x: x.median(1, True).indices, (odd,)),
        Sample("median_nan", lambda x: x.median(0).values, (special,)),
        Sample("median_nan_place", lambda x: x.median(0).indices, (special,)),
        Sample("nanmedian", lambda x: x.nanmedian(), (special,)),
        Sample("nanmedian_rows", lambda x: x.nanmedian(1).values, (torch.stack([special, special.roll(3)]),)),
        Sample("nanmedian_of_none", lambda x: x.nanmedian(0).values, (torch.full((3,), float("nan")),)),
        Sample("mode", lambda x: x.mode(1).values, (values(torch.float32, 6, 31),)),
        Sample("mode_int", lambda x: x.mode(0, True).values, (values(torch.int8, 31, 5),)),
        *[
            sample
            for name, run in (
                ("cummax", lambda x: x.cummax(1).values),
                ("cummax_places", lambda x: x.cummax(1).indices),
                ("cummin", lambda x: x.cummin(0).values),
                ("cummin_places", lambda x: x.cummin(1).indices),
            )
            for sample in _each(name, ALL if name == "cummax" else PAIR, run, rows)
        ],
        Sample("cummax_special", lambda x: x.cummax(0).values, (special,)),
        Sample("cummax_special_places", lambda x: x.cummax(0).indices, (special,)),
        Sample("cummin_fused", lambda x: (x * 2).cummin(1).values.exp() * x, (odd,)),
        *_each("cumsum", (*SOME, torch.float16, torch.bool), lambda x: x.cumsum(1), rows),
        *_each("cumprod", (torch.float32, torch.bfloat16, torch.int8), lambda x: x.cumprod(0), rows),
        Sample("cumsum_narrow", lambda x: x.cumsum(1, dtype=torch.int8), (values(torch.int8, 3, 90),)),
        Sample("cumsum_one", lambda x: x.cumsum(0), (torch.tensor(2.5),)),
        *_each("logcumsumexp", SOME[:2], lambda x: x.logcumsumexp(1), rows),
        Sample("logcumsumexp_wide", lambda x: x.logcumsumexp(0), (floats(60, low=-900, high=900),)),
        Sample(
            "logcumsumexp_infinite",
            lambda x: x.logcumsumexp(0),
            (torch.tensor([float("-inf"), float("-inf"), 1.0, float("inf"), 2.0]),),
        ),
        Sample("logcumsumexp_middle", lambda x: x.logcumsumexp(1), (floats(2, 40, 3),)),
        Sample("running_of_none", lambda x: x.cumsum(0), (torch.zeros(0, 3),)),
    ]


def empties() -> list[Sample]:
    """Tensors without elements, and what is computed from them."""
    none, some, nowhere = torch.zeros(0, 3), floats(2, 3), torch.zeros(0, dtype=torch.int64)
    return [
        Sample("empty_triu", torch.triu, (none,)),
        Sample("empty_tril", torch.tril, (torch.zeros(3, 0),)),
        Sample("empty_add", lambda x, y: x + y, (none, floats(1, 3))),
        Sample("empty_sum", lambda x: x.sum(0), (none,)),
        Sample("empty_sum_of_each", lambda x: x.sum(1), (none,)),
        Sample("empty_prod", lambda x: x.prod(0), (none,)),
        Sample("empty_mean", lambda x: x.mean(), (none,)),
        Sample("empty_all", lambda x: (x > 0).all(), (none,)),
        Sample("empty_any", lambda x: (x > 0).any(0), (none,)),
        Sample("empty_softmax", lambda x: x.softmax(0), (none,)),
        Sample("empty_mm", torch.mm, (none, floats(3, 2))),
        Sample("mm_over_nothing", torch.mm, (torch.zeros(2, 0), torch.zeros(0, 5))),
        Sample("bmm_over_nothing", torch.bmm, (torch.zeros(2, 3, 0), torch.zeros(2, 0, 5))),
        Sample("linear_over_nothing", F.linear, (torch.zeros(2, 0), torch.zeros(5, 0), floats(5))),
        Sample("empty_bmm", torch.bmm, (torch.zeros(0, 2, 3), torch.zeros(0, 3, 4))),
        Sample("empty_attention", F.scaled_dot_product_attention, (torch.zeros(0, 2, 3, 8),) * 3),
        Sample("empty_layer_norm", lambda x: F.layer_norm(x, (3,)), (none,)),
        Sample("empty_pool", lambda x: F.max_pool2d(x, 2), (torch.zeros(0, 3, 4, 4),)),
        Sample("empty_transposed", lambda x: x.t().contiguous() * 2, (none,)),
        Sample("empty_cat", lambda x, y: torch.cat([x, y, x]), (none, some)),
        Sample("empty_pad", lambda x: F.pad(x, (0, 0, 1, 1)), (none,)),
        Sample("empty_slice", lambda x: x[2:2].exp(), (some,)),
        Sample("empty_cast", lambda x: x.half(), (none,)),
        Sample("empty_sort", lambda x: x.sort(0).values, (none,)),
        Sample("topk_of_none", lambda x: x.topk(0, 1).indices, (some,)),
        Sample("index_by_none", lambda x, i: x[i], (some, nowhere)),
        Sample("gather_none", lambda x, i: x.gather(0, i), (some, torch.zeros(0, 3, dtype=torch.int64))),
        Sample("scatter_none", lambda x, i: x.scatter(0, i, 1.0), (some, torch.zeros(0, 3, dtype=torch.int64))),
        Sample("index_put_none", lambda x, i, s: x.index_put((i,), s), (some, nowhere, none)),
        Sample("scatter_into_none", lambda x, i: x.scatter(0, i, 1.0), (none, torch.zeros(0, 3, dtype=torch.int64))),
    ]
