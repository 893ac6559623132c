"""LSTM and GRU layers as single steps of linear and pointwise operators (the equations of torch.nn.LSTM and GRU)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[[Tensor, tuple[Tensor, ...], Tensor, Tensor | None], tuple[Tensor, ...]]


def _lstm_step(gates_in: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None) -> tuple[Tensor, ...]:
    h, c = state
    gates = gates_in + torch.ops.aten.linear.default(h, w_hh, b_hh)
    i, f, g, o = _parts(gates, 4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru_step(gates_in: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None) -> tuple[Tensor, ...]:
    (h,) = state
    r_in, z_in, n_in = _parts(gates_in, 3)
    r_h, z_h, n_h = _parts(torch.ops.aten.linear.default(h, w_hh, b_hh), 3)
    r, z = torch.sigmoid(r_in + r_h), torch.sigmoid(z_in + z_h)
    n = torch.tanh(n_in + r * n_h)
    return (n + z * (h - n),)


def _parts(x: Tensor, count: int) -> list[Tensor]:
    size = x.shape[-1] // count
    return [x.narrow(-1, i * size, size) for i in range(count)]


def _direction(
    x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor], has_biases: bool, step: Step, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = (rest[0], rest[1]) if has_biases else (None, None)
    projection = rest[-1] if len(rest) % 2 else None
    gates = torch.ops.aten.linear.default(x, w_ih, b_ih)
    times = range(int(x.shape[0]))
    outputs = []
    for t in reversed(times) if reverse else times:
        state = step(gates.select(0, t), state, w_hh, b_hh)
        if projection is not None:
            state = (torch.ops.aten.linear.default(state[0], projection), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _layers(
    x: Tensor,
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    step: Step,
) -> tuple[Tensor, ...]:
    directions, per_cell = 1 + bidirectional, len(params) // (layers * (1 + bidirectional))
    x = x.transpose(0, 1) if batch_first else x
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            cell = layer * directions + direction
            start = tuple(s.select(0, cell) for s in states)
            weights = params[cell * per_cell : (cell + 1) * per_cell]
            out, final = _direction(x, start, weights, has_biases, step, bool(direction))
            outputs.append(out)
            finals.append(final)
        x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
    y = x.transpose(0, 1) if batch_first else x
    return (y, *(torch.stack(parts) for parts in zip(*finals, strict=True)))


def lstm_input(
    x: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """`aten.lstm.input` (projections included): (output, last hidden states, last cell states)."""
    return _layers(x, hx, params, has_biases, num_layers, bidirectional, batch_first, _lstm_step)


def gru_input(
    x: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """`aten.gru.input`: (output, last hidden states)."""
    return _layers(x, (hx,), params, has_biases, num_layers, bidirectional, batch_first, _gru_step)
