"""Counts of n-grams in rows of integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


@operator("TfIdfVectorizer")
def _tf_idf(call: Call) -> Tensor:
    """How often each n-gram of the pool occurs, with up to `max_skip_count` elements between neighbours."""
    rows = call.tensor().to(torch.int64)
    flat, rows = rows.dim() == 1, rows.reshape(-1, rows.shape[-1])
    mode, places = call.attribute("mode"), call.attribute("ngram_indexes")
    weights, skips = call.attribute("weights"), call.attribute("max_skip_count")
    counts = [_occurrences(rows, grams, skips) for grams in _pools(call)]
    total = torch.cat([part for part in counts], -1).to(torch.float32)
    if mode != "TF":
        total = torch.clamp(total, max=1.0) if mode == "IDF" else total
        total = total if weights is None else total * torch.tensor(weights, dtype=torch.float32)
    y = _placed(total, places)
    return y.reshape(-1) if flat else y


def _pools(call: Call) -> Iterator[np.ndarray | int]:
    """The n-grams of each length as [count, length], or only their count if that length is not asked for."""
    pool, starts = call.attribute("pool_int64s"), call.attribute("ngram_counts")
    low, high = call.attribute("min_gram_length"), call.attribute("max_gram_length")
    if pool is None:
        raise call.error("n-grams of strings are not supported")
    for length, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), 1):
        grams = np.array(pool[start:end], np.int64).reshape(-1, length)
        yield grams if low <= length <= high else len(grams)


def _occurrences(rows: Tensor, grams: np.ndarray | int, skips: int) -> Tensor:
    """How often each n-gram occurs in each row: [rows, grams]."""
    count = grams if isinstance(grams, int) else len(grams)
    total = torch.zeros((rows.shape[0], count), dtype=torch.int64)
    if isinstance(grams, int) or not count:
        return total
    length = grams.shape[1]
    for skip in range(skips + 1 if length > 1 else 1):
        starts = rows.shape[1] - (length - 1) * (skip + 1)
        if starts <= 0:
            break
        found = torch.ones((rows.shape[0], starts, count), dtype=torch.bool)
        for i in range(length):
            element = rows.narrow(1, i * (skip + 1), starts).unsqueeze(-1)
            found = found & (element == torch.from_numpy(grams[:, i].copy()))
        total = total + found.sum(1)
    return total


def _placed(total: Tensor, places: list[int]) -> Tensor:
    """Each n-gram in the column that it is given; columns of none are zero."""
    columns = np.full(max(places) + 1, len(places), np.int64)
    columns[places] = np.arange(len(places))
    with_zero = torch.cat([total, torch.zeros((total.shape[0], 1))], -1)
    return with_zero.index_select(1, torch.from_numpy(columns))
