"""LSTM, GRU and RNN: their steps unrolled over the sequence, for both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor
State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]
Activation = Callable[[Tensor], Tensor]
_PLAIN: dict[str, Activation] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "softsign": F.softsign, "softplus": F.softplus,
}  # fmt: skip
_SCALED: dict[str, tuple[float | None, float | None, Callable[..., Tensor]]] = {
    "affine": (None, None, lambda x, a, b: a * x + b),
    "leakyrelu": (0.01, None, lambda x, a, _: F.leaky_relu(x, a)),
    "thresholdedrelu": (1.0, None, lambda x, a, _: torch.where(x > a, x, torch.zeros_like(x))),
    "scaledtanh": (None, None, lambda x, a, b: a * torch.tanh(b * x)),
    "hardsigmoid": (0.2, 0.5, lambda x, a, b: torch.clamp(a * x + b, 0, 1)),
    "elu": (1.0, None, lambda x, a, _: F.elu(x, a)),
}
"""Activations with alpha and beta: the defaults (None: there is none), and the function."""
_WITH_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})


def _activations(call: Call, default: Sequence[str], direction: int, directions: int) -> list[Activation]:
    """The functions of one direction; alphas and betas are given in the order of those functions that take them."""
    names = call.attribute("activations") or list(default) * directions
    alphas, betas = iter(call.attribute("activation_alpha", [])), iter(call.attribute("activation_beta", []))
    if len(names) != len(default) * directions:
        raise call.error(f"{len(names)} activations for {directions} directions of {len(default)}")
    functions = [_activation(call, name, alphas, betas) for name in names]
    return functions[direction * len(default) : (direction + 1) * len(default)]


def _activation(call: Call, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    kind = name.lower()
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind not in _SCALED:
        raise call.error(f"the activation {name} is not supported")
    alpha, beta, function = _SCALED[kind]
    alpha = next(alphas, alpha)
    beta = next(betas, beta) if kind in _WITH_BETA else 0.0
    if alpha is None or beta is None:
        raise call.error(f"the activation {name} needs activation_alpha and activation_beta")
    return lambda x: function(x, alpha, beta)


def _run(call: Call, states: int, make: Callable[[int, int, Callable[[int], Tensor | None]], Cell]) -> tuple[Any, ...]:
    """All directions: outputs [steps, directions, batch, hidden] and the last states [directions, batch, hidden]."""
    x = call.tensor(0)
    layout = call.attribute("layout", 0)
    x = x.transpose(0, 1) if layout else x
    way = call.attribute("direction", "forward")
    directions = 2 if way == "bidirectional" else 1
    hidden = call.attribute("hidden_size") or call.tensor(2).shape[-1]
    if call.attribute("clip") is not None:
        raise call.error("clipped cells are not supported")
    lengths = call.optional(4)
    outputs, lasts = [], []
    for direction in range(directions):
        back = way == "reverse" or direction == 1

        def part(position: int, direction: int = direction) -> Tensor | None:
            tensor = call.optional(position)
            return None if tensor is None else tensor.select(0, direction)

        start = []
        for i in range(states):
            given = call.optional(5 + i)
            given = given if given is None or not layout else given.transpose(0, 1)
            start.append(x.new_zeros(x.shape[1], hidden) if given is None else given.select(0, direction))
        y, last = _walk(x, tuple(start), make(direction, directions, part), back, lengths)
        outputs.append(y)
        lasts.append(last)
    y = torch.stack(outputs, 1)
    finals = [torch.stack([last[i] for last in lasts], 0) for i in range(states)]
    if layout:
        return (y.permute(2, 0, 1, 3), *(f.transpose(0, 1) for f in finals))
    return (y, *finals)


def _walk(x: Tensor, state: State, cell: Cell, back: bool, lengths: Tensor | None) -> tuple[Tensor, State]:
    steps = int(x.shape[0])
    outputs: list[Tensor] = [x] * steps
    for step in reversed(range(steps)) if back else range(steps):
        new = cell(x.select(0, step), state)
        if lengths is None:
            state, outputs[step] = new, new[0]
            continue
        inside = (lengths > step).unsqueeze(-1)
        state = tuple(torch.where(inside, a, b) for a, b in zip(new, state, strict=True))
        outputs[step] = torch.where(inside, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), state


def _sum(bias: Tensor | None, count: int) -> tuple[list[Any], list[Any]]:
    if bias is None:
        return [0.0] * count, [0.0] * count
    parts = bias.chunk(2 * count)
    return list(parts[:count]), list(parts[count:])


@operator("LSTM")
def _lstm(call: Call) -> tuple[Any, ...]:
    forget = call.attribute("input_forget", 0)

    def make(direction: int, directions: int, part: Callable[[int], Tensor | None]) -> Cell:
        f, g, h = _activations(call, ("Sigmoid", "Tanh", "Tanh"), direction, directions)
        w, r, b, peep = part(1), part(2), part(3), part(7)
        assert w is not None and r is not None
        peeps = [0.0] * 3 if peep is None else list(peep.chunk(3))
        wb, rb = _sum(b, 4)

        def cell(x: Tensor, state: State) -> State:
            hidden, memory = state
            gates = torch.matmul(x, w.t()) + torch.matmul(hidden, r.t())
            i, o, k, c = (gate + p + q for gate, p, q in zip(gates.chunk(4, -1), wb, rb, strict=True))
            into = f(i + peeps[0] * memory)
            keep = 1 - into if forget else f(k + peeps[2] * memory)
            memory = keep * memory + into * g(c)
            return f(o + peeps[1] * memory) * h(memory), memory

        return cell

    return _run(call, 2, make)


@operator("GRU")
def _gru(call: Call) -> tuple[Any, ...]:
    before = call.attribute("linear_before_reset", 0)

    def make(direction: int, directions: int, part: Callable[[int], Tensor | None]) -> Cell:
        f, g = _activations(call, ("Sigmoid", "Tanh"), direction, directions)
        w, r, b = part(1), part(2), part(3)
        assert w is not None and r is not None
        wb, rb = _sum(b, 3)
        rz, rr, rh = r.chunk(3)

        def cell(x: Tensor, state: State) -> State:
            (hidden,) = state
            xz, xr, xh = (gate + p for gate, p in zip(torch.matmul(x, w.t()).chunk(3, -1), wb, strict=True))
            z = f(xz + torch.matmul(hidden, rz.t()) + rb[0])
            reset = f(xr + torch.matmul(hidden, rr.t()) + rb[1])
            if before:
                new = g(xh + reset * (torch.matmul(hidden, rh.t()) + rb[2]))
            else:
                new = g(xh + torch.matmul(reset * hidden, rh.t()) + rb[2])
            return ((1 - z) * new + z * hidden,)

        return cell

    return _run(call, 1, make)


@operator("RNN")
def _rnn(call: Call) -> tuple[Any, ...]:
    def make(direction: int, directions: int, part: Callable[[int], Tensor | None]) -> Cell:
        (f,) = _activations(call, ("Tanh",), direction, directions)
        w, r, b = part(1), part(2), part(3)
        assert w is not None and r is not None
        wb, rb = _sum(b, 1)

        def cell(x: Tensor, state: State) -> State:
            return (f(torch.matmul(x, w.t()) + torch.matmul(state[0], r.t()) + wb[0] + rb[0]),)

        return cell

    return _run(call, 1, make)
