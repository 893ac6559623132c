"""The Dynamo backend: `torch.compile(model, backend="ullage", options={"budget": "24MiB"})`.

Dynamo cuts a model into graphs, one for each stretch between graph breaks and for each set of guards. All of those that
one `torch.compile` asks for are pieces of one group: they share its budget.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.fx import GraphModule

from ullage.api import Pieces
from ullage.errors import InputError, MutationFound
from ullage.frontends.dynamo_graph import Carried, DynamoGraph, Live, SizeOf, State
from ullage.frontends.symbols import grown


class Backend:
    """A backend with a budget of its own: `torch.compile(model, backend=ullage.Backend(budget="24MiB"))`.

    Takes the options of `ullage.compile`, and `max_size`: the largest value of every dynamic dimension that has no
    bound of its own; without it, plans are made for the next power of two and made anew when a size is beyond it.
    """

    def __init__(self, *, max_size: int | None = None, **options: Any) -> None:
        if max_size is not None and (not isinstance(max_size, int) or max_size < 1):
            raise InputError(f"max_size must be a number from 1 on, found {max_size!r}.")
        if options.get("dynamic_shapes") is not None:
            raise InputError("dynamic_shapes: under torch.compile give dynamic=, mark_dynamic(min=, max=) or max_size.")
        self.max_size = max_size
        self.options: Mapping[str, Any] | None = None
        self.pieces = Pieces("torch.compile", **options)
        self._graphs = 0

    def __call__(self, module: GraphModule, example_inputs: Sequence[Any]) -> _Piece:
        """Take in one graph; it is compiled when it is first called."""
        self._graphs += 1
        return _Piece(self, DynamoGraph.of(module, example_inputs), f"graph {self._graphs}")

    def explain(self) -> str:
        """The budget and what each graph holds of it, as text."""
        return self.pieces.group.explain()

    def stats(self) -> dict[str, Any]:
        """What all graphs hold together, and each one's part."""
        return self.pieces.group.summary()


_backends: weakref.WeakValueDictionary[int, Backend] = weakref.WeakValueDictionary()
"""Backends in use by the identity of their options.

All that Dynamo says of the `torch.compile` that a graph is compiled for is its `options` object, always the same one.
A backend keeps its options, and its graphs keep it, so that an identity is not given out again while it is looked up.
"""


def ullage_backend(gm: GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> _Piece:
    """Compile one Dynamo graph; `options` are those of `Backend`, and the same object means the same budget."""
    if options is None:
        return Backend()(gm, example_inputs)
    backend = _backends.get(id(options))
    if backend is None:
        backend = Backend(**options)
        backend.options = options
        _backends[id(options)] = backend
    return backend(gm, example_inputs)


class _Piece:
    """A graph under Dynamo's convention: all inputs by position, state among them; gradients are not recorded.

    Modules of one class share a graph, each with its own state: a variant is compiled for each.
    """

    def __init__(self, backend: Backend, graph: DynamoGraph, name: str) -> None:
        self._backend = backend
        self._graph = graph
        self._name = name
        self._lock = threading.RLock()
        self._state = {n: i for i, (n, role) in enumerate(graph.roles.items()) if isinstance(role, State)}
        self._variants: list[_Variant] = []
        self._made = 0

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        """Run the graph."""
        with self._lock, torch.no_grad():
            return self._variant({name: args[number] for name, number in self._state.items()}).run(args)

    def _variant(self, state: Mapping[str, torch.Tensor]) -> _Variant:
        found = next((variant for variant in self._variants if variant.holds(state)), None)
        if found is None:
            self._made += 1
            name = self._name if self._made == 1 else f"{self._name}, state {self._made}"
            found = _Variant(self._backend, self._graph, name, state)
            self._variants = [*(variant for variant in self._variants if variant.is_alive), found]
        return found


class _Variant:
    """A graph with one set of parameters and buffers.

    State that turns out to be written to, by this graph or by others, becomes an input; changed parameters are refused.
    """

    def __init__(self, backend: Backend, graph: DynamoGraph, name: str, state: Mapping[str, torch.Tensor]) -> None:
        self._backend = backend
        self._graph = graph
        self._name = name
        self._numbers = {place: number for number, place in enumerate(graph.roles)}
        self._moving: frozenset[str] = frozenset()
        self._written: tuple[str, ...] = ()
        self._seen = {n: (weakref.ref(tensor), _mark(tensor)) for n, tensor in state.items()}
        self._prepare()

    @property
    def is_alive(self) -> bool:
        """Whether somebody still holds all of the state."""
        return all(tensor() is not None for tensor, _ in self._seen.values())

    def holds(self, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether this was compiled for these very parameters and buffers."""
        return all(self._seen[name][0]() is tensor for name, tensor in state.items())

    def run(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The graph's results; what it writes to is written."""
        self._notice_changes()
        results = self._results(args)
        count = len(results) - len(self._written)
        for name, value in zip(self._written, results[count:], strict=True):
            args[self._numbers[name]].copy_(value)
        return self._graph.restored(results[:count], self._bounds.sizes(args))

    def _results(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        while True:
            try:
                results: tuple[Any, ...] = self._compiled(*self._given(args))
                return results
            except MutationFound as found:
                if not self._take(found.names):
                    raise

    def _take(self, names: Sequence[str]) -> bool:
        """Have the named state and inputs written back after each run; False if that is nothing new."""
        fresh = [name.removeprefix("held_") for name in names]
        fresh = [name for name in fresh if name in self._numbers and name not in self._written]
        self._written += tuple(fresh)
        self._moving |= {name for name in fresh if name in self._seen}
        self._prepare()
        return bool(fresh)

    def _prepare(self) -> None:
        state = {name: ref() for name, (ref, _) in self._seen.items() if name not in self._moving}
        held = {name: tensor for name, tensor in state.items() if tensor is not None}
        module = self._graph.as_module(held, self._moving, self._written)
        self._bounds = _Bounds(self._graph, self._graph.inputs(self._moving), self._backend.max_size)
        self._compiled = self._backend.pieces.lazy(module, self._name, self._bounds)

    def _given(self, args: tuple[Any, ...]) -> list[Any]:
        return [_given(self._graph.roles[n], args[self._numbers[n]]) for n in self._graph.inputs(self._moving)]

    def _notice_changes(self) -> None:
        state = ((name, ref(), mark) for name, (ref, mark) in self._seen.items() if name not in self._moving)
        changed = [name for name, tensor, mark in state if tensor is None or _mark(tensor) != mark]
        for name in changed:
            role = self._graph.roles[name]
            if isinstance(role, State) and role.is_parameter:
                raise InputError(
                    f"{name} was changed after {self._name} was compiled, which keeps the values that it had then; "
                    "torch._dynamo.reset() lets the next call compile it again."
                )
        if changed:
            self._moving |= frozenset(changed)
            self._prepare()


def _mark(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's bytes are, and how often they were written to."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


def _given(role: object, value: Any) -> Any:
    if isinstance(role, Carried):
        return torch.empty(int(value), 0)
    return value.detach() if isinstance(value, torch.Tensor) else value


class _Bounds:
    """The dynamic dimensions of a graph for the sizes of a call."""

    def __init__(self, graph: DynamoGraph, inputs: Sequence[str], max_size: int | None) -> None:
        self._graph = graph
        self._inputs = inputs
        self._max_size = max_size
        self._numbers = {name: number for number, name in enumerate(graph.roles)}

    def sizes(self, args: Sequence[Any]) -> dict[sympy.Symbol, int]:
        """The value of each symbol in a call of Dynamo's."""
        roles = self._graph.roles.items()
        return {r.symbol: int(args[self._numbers[n]]) for n, r in roles if isinstance(r, SizeOf | Carried)}

    def choices(self, args: tuple[Any, ...]) -> Iterator[object]:
        """Bounds with room to grow, then the sizes themselves as bounds, then these sizes only."""
        values = self._values(dict(zip(self._inputs, args, strict=True)))
        if not values:
            yield None
            return
        roomy = {symbol: self._most(symbol, value) for symbol, value in values.items()}
        yield self._shapes(roomy)
        if roomy != values:
            yield self._shapes(values)
        warnings.warn(f"a graph is compiled for the sizes {values} only, as it cannot be for others.", stacklevel=2)
        yield None

    def _values(self, given: Mapping[str, torch.Tensor]) -> dict[sympy.Symbol, int]:
        values = {}
        for name, role in self._graph.roles.items():
            if isinstance(role, SizeOf):
                values[role.symbol] = given[role.tensor].shape[role.axis] // role.scale
            elif isinstance(role, Carried):
                values[role.symbol] = given[name].shape[0]
        return values

    def _most(self, symbol: sympy.Symbol, value: int) -> int:
        declared = self._graph.extents[symbol].maximum or self._max_size
        if declared is None:
            return grown(value)
        if value > declared:
            raise InputError(f"a dimension of {value} is beyond max_size={declared}.")
        return declared

    def _shapes(self, most: Mapping[sympy.Symbol, int]) -> dict[str, Any]:
        dims = {symbol: self._dim(symbol, maximum) for symbol, maximum in most.items()}
        shapes: dict[str, Any] = {}
        for name in self._inputs:
            role = self._graph.roles[name]
            if isinstance(role, Live):
                axes = {axis: _asked(size, dims, most) for axis, size in enumerate(role.shape)}
                shapes[name] = {axis: dim for axis, dim in axes.items() if dim is not None}
            elif isinstance(role, Carried):
                shapes[name] = {0: dims[role.symbol]}
        return {name: axes for name, axes in shapes.items() if axes}

    def _dim(self, symbol: sympy.Symbol, maximum: int) -> Any:
        return torch.export.Dim(str(symbol), min=max(1, self._graph.extents[symbol].minimum), max=maximum)


def _asked(size: int | sympy.Expr, dims: Mapping[sympy.Symbol, Any], most: Mapping[sympy.Symbol, int]) -> Any:
    """What to ask torch.export for: a dimension, a multiple or shift of one, or a range for anything else."""
    if isinstance(size, int) or not size.free_symbols:
        return None
    if len(size.free_symbols) == 1:
        symbol: Any = next(iter(size.free_symbols))
        slope: Any = size.coeff(symbol, 1)
        shift: Any = size.subs(symbol, 0)
        if slope.is_Integer and shift.is_Integer and sympy.expand(slope * symbol + shift - size) == 0:
            scaled = dims[symbol] if slope == 1 else int(slope) * dims[symbol]
            return scaled if shift == 0 else scaled + int(shift)
    sizes: Any = dict(most)
    return (1, int(size.subs(sizes)))
