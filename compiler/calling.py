"""The calling convention of a captured model: Python arguments ↔ named input tensors, flat outputs ↔ output pytree."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ullage.errors import InputError
from ullage.graph.captured import FROZEN_NONE, CapturedModel, ConstantOutput

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Convention:
    """How a captured model is called, without its graph and its constants."""

    input_names: tuple[str, ...]
    in_spec: pytree.TreeSpec
    input_leaves: tuple[object, ...]
    output_leaves: tuple[ConstantOutput, ...]
    output_dtypes: tuple[torch.dtype, ...]
    out_spec: pytree.TreeSpec
    signature: inspect.Signature | None

    @staticmethod
    def of(captured: CapturedModel, source: object) -> Convention:
        """The convention of a model captured from `source` (a callable, whose signature is kept, or a file)."""
        return Convention(
            tuple(spec.name for spec in captured.inputs),
            captured.in_spec,
            captured.input_leaves,
            captured.output_leaves,
            tuple(spec.dtype for spec in captured.outputs),
            captured.out_spec,
            signature_of(source),
        )

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Input tensors by name; raises InputError if the call has another structure or other constants."""
        leaves = self._leaves(args, dict(kwargs))
        tensors: list[torch.Tensor] = []
        for leaf, frozen in zip(leaves, self.input_leaves, strict=True):
            if frozen is None:
                tensors.append(_tensor(leaf, self.input_names[len(tensors)]))
            elif not same(leaf, None if frozen is FROZEN_NONE else frozen):
                raise InputError(
                    f"an argument was {frozen!r} when the model was captured and is {leaf!r} now; "
                    "values that are no tensors are fixed at capture, so compile again for another value."
                )
        return dict(zip(self.input_names, tensors, strict=True))

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec == self.in_spec:
            return leaves
        if self.signature is not None:
            leaves, spec = pytree.tree_flatten(self._rearrange(self.signature, args, kwargs))
        if spec != self.in_spec:
            raise InputError(
                f"the arguments have another structure than at capture: expected {self.in_spec}, found {spec}."
            )
        return leaves

    def _rearrange(self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The same call with as many positional arguments, and the keywords, that were used at capture."""
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"the arguments do not fit the model's signature {signature}: {error}.") from error
        example_args, example_kwargs = pytree.tree_unflatten(list(self.input_leaves), self.in_spec)
        expected = signature.bind(*example_args, **example_kwargs).arguments
        bound.apply_defaults()
        extra = {
            name: value
            for name, value in bound.arguments.items()
            if name not in expected and not same(value, signature.parameters[name].default) and value not in ((), {})
        }
        if extra or not expected.keys() <= bound.arguments.keys():
            return args, kwargs
        bound.arguments = {name: bound.arguments[name] for name in expected}
        positional = (*bound.args, *bound.kwargs.values())
        names = [*bound.arguments]
        keywords = {name: bound.arguments[name] for name in names if name in example_kwargs}
        return tuple(positional[: len(example_args)]), {name: keywords[name] for name in example_kwargs}

    def restore(self, outputs: Sequence[torch.Tensor]) -> Any:
        """The original's output structure around the output tensors."""
        leaves = [
            leaf.value if leaf.tensor_index is None else outputs[leaf.tensor_index] for leaf in self.output_leaves
        ]
        return pytree.tree_unflatten(leaves, self.out_spec)


def signature_of(source: object) -> inspect.Signature | None:
    """The signature that a model is called with; None for files."""
    function: Callable[..., Any] | None = source.forward if isinstance(source, torch.nn.Module) else None
    if function is None and callable(source):
        function = source
    try:
        return inspect.signature(function) if function is not None else None
    except (TypeError, ValueError):
        return None


def _tensor(leaf: object, name: str) -> torch.Tensor:
    if not isinstance(leaf, torch.Tensor):
        raise InputError(f"input {name!r} must be a tensor, found {type(leaf).__name__}.")
    return leaf


def same(left: object, right: object) -> bool:
    """Whether two plain values are equal and of one type."""
    return left is right or (type(left) is type(right) and bool(left == right))
