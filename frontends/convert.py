"""From an exported and decomposed program to a CapturedModel: constants by reference, inputs and outputs described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import TreeSpec

from ullage.errors import CaptureError, MutationFound
from ullage.frontends.canonical import canonicalise
from ullage.frontends.dims import dim_bounds
from ullage.frontends.dynamic import Minimums
from ullage.frontends.names import apart, output_names
from ullage.frontends.real_graphs import without_complex
from ullage.graph.captured import FROZEN_NONE, CapturedModel, ConstantOutput, TensorSpec, graph_module
from ullage.graph.constants import ConstantRef, Source
from ullage.graph.sources import InMemory

_CONSTANT_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATION_KINDS = {
    OutputKind.BUFFER_MUTATION: "buffer",
    OutputKind.USER_INPUT_MUTATION: "input",
    OutputKind.PARAMETER_MUTATION: "parameter",
}


@dataclass(frozen=True)
class Names:
    """Public names of all input leaves, and how those of all output leaves follow from the output's structure."""

    inputs: Sequence[str]
    outputs: Callable[[TreeSpec], Sequence[str]] = output_names


def from_exported(
    exported: ExportedProgram,
    graph: Graph,
    names: Names,
    sources: Mapping[str, Source],
    minimums: Minimums,
) -> CapturedModel:
    """Build the CapturedModel of a decomposed `graph` that `exported` describes.

    `names` are the public names of all leaves, `sources` override state by name, `minimums` are the least sizes
    that dynamic dimensions were declared with. Raises CaptureError for mutation, data-dependent shapes, unbounded
    dimensions and parameters without values.
    """
    _refuse_mutation(exported)
    _refuse_subgraphs(graph)
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    assert in_spec is not None and out_spec is not None
    module, nodes = _copied(graph)
    users = [spec for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors = [(name, nodes[spec.arg.name]) for name, spec in zip(names.inputs, users, strict=True) if _is_tensor(spec)]
    leaves = _output_leaves(exported)
    _flatten_outputs(module, exported)
    without_complex(module.graph)
    canonicalise(module)
    constants = _bind_constants(nodes, exported, sources)
    _drop_placeholders(module, keep={*constants, *(node.name for _, node in tensors)})
    _refuse_data_dependence(module)
    inputs = tuple(TensorSpec(name, *_dtype_shape(node)) for name, node in tensors)
    return CapturedModel(
        module=module,
        constants=constants,
        inputs=inputs,
        input_nodes=tuple(node.name for _, node in tensors),
        outputs=_outputs(module, apart(names.outputs(out_spec), names.inputs), leaves),
        output_leaves=leaves,
        in_spec=in_spec,
        input_leaves=tuple(_frozen_leaf(spec) for spec in users),
        out_spec=out_spec,
        dims=dim_bounds(inputs, exported.range_constraints, minimums),
    )


def _copied(source: Graph) -> tuple[GraphModule, dict[str, Node]]:
    """A copy of the graph, whose names stay as they are in later copies, and its placeholders by their old names."""
    graph, copies = Graph(), dict[Node, Node]()
    graph.output(graph.graph_copy(source, copies))
    placeholders = {old.name: copies[old] for old in source.find_nodes(op="placeholder")}
    return graph_module(graph), placeholders


def _dtype_shape(node: Node) -> tuple[torch.dtype, tuple[int | torch.SymInt, ...]]:
    value = node.meta["val"]
    return value.dtype, tuple(value.shape)


def _is_tensor(spec: InputSpec) -> bool:
    if isinstance(spec.arg, TensorArgument):
        return True
    if isinstance(spec.arg, ConstantArgument):
        return False
    raise CaptureError(f"input {spec.arg.name!r} is a dynamic number; only tensors may vary, make it static.")


def _frozen_leaf(spec: InputSpec) -> object:
    if isinstance(spec.arg, TensorArgument):
        return None
    assert isinstance(spec.arg, ConstantArgument)
    return FROZEN_NONE if spec.arg.value is None else spec.arg.value


def _refuse_mutation(exported: ExportedProgram) -> None:
    specs = exported.graph_signature.output_specs
    changed = {str(s.target): _MUTATION_KINDS[s.kind] for s in specs if s.kind in _MUTATION_KINDS}
    if changed:
        raise MutationFound(changed)


def _refuse_subgraphs(graph: Graph) -> None:
    found = {str(n.target) for n in graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)}
    if found:
        raise CaptureError(
            f"the model has control flow with graphs inside ({', '.join(sorted(found))}), which cannot be planned; "
            "compute both branches and choose with torch.where, or unroll the loop."
        )


def _output_leaves(exported: ExportedProgram) -> tuple[ConstantOutput, ...]:
    leaves: list[ConstantOutput] = []
    tensors = 0
    for spec in exported.graph_signature.output_specs:
        if isinstance(spec.arg, TensorArgument):
            leaves.append(ConstantOutput(None, tensors))
            tensors += 1
        elif isinstance(spec.arg, ConstantArgument):
            leaves.append(ConstantOutput(spec.arg.value))
        else:
            raise CaptureError(
                f"output {spec.arg.name!r} is a number that depends on a dynamic dimension; "
                "return it as a tensor, or compute it from the outputs' shapes."
            )
    return tuple(leaves)


def _flatten_outputs(module: GraphModule, exported: ExportedProgram) -> None:
    specs = exported.graph_signature.output_specs
    output = module.graph.output_node()
    (results,) = output.args
    assert isinstance(results, (tuple, list))
    kept = tuple(r for r, spec in zip(results, specs, strict=True) if isinstance(spec.arg, TensorArgument))
    output.args = (kept,)


def _outputs(module: GraphModule, names: Sequence[str], leaves: Sequence[ConstantOutput]) -> tuple[TensorSpec, ...]:
    (results,) = module.graph.output_node().args
    assert isinstance(results, tuple)
    tensor_names = [name for name, leaf in zip(names, leaves, strict=True) if leaf.tensor_index is not None]
    nodes: list[Any] = list(results)
    return tuple(TensorSpec(name, *_dtype_shape(node)) for name, node in zip(tensor_names, nodes, strict=True))


def _bind_constants(
    placeholders: Mapping[str, Node], exported: ExportedProgram, sources: Mapping[str, Source]
) -> dict[str, ConstantRef]:
    """References for the constant placeholders in use; tied ones are merged into the first."""
    targets = {s.arg.name: s.target for s in exported.graph_signature.input_specs if s.kind in _CONSTANT_KINDS}
    constants: dict[str, ConstantRef] = {}
    first_of: dict[tuple[Any, ...], Node] = {}
    missing: list[str] = []
    for name, node in placeholders.items():
        target = targets.get(name)
        if target is None or not node.users:
            continue
        source = sources.get(target) or _in_memory(exported, target)
        if source is None:
            missing.append(target)
            continue
        dtype, shape = _dtype_shape(node)
        first = first_of.setdefault((source.key, dtype, shape), node)
        if first is not node:
            node.replace_all_uses_with(first)
            continue
        constants[node.name] = ConstantRef(target, dtype, tuple(int(n) for n in shape), source)
    if missing:
        raise CaptureError(f"no values for parameters: {', '.join(missing)}. Load the weights before capturing.")
    return constants


def _in_memory(exported: ExportedProgram, target: str) -> Source | None:
    value = exported.state_dict.get(target, exported.constants.get(target))
    if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor) or value.is_meta:
        return None
    return InMemory(value.detach())


def _drop_placeholders(module: GraphModule, keep: set[str]) -> None:
    for node in module.graph.find_nodes(op="placeholder"):
        if node.name not in keep:
            module.graph.erase_node(node)
    module.recompile()


def _refuse_data_dependence(module: GraphModule) -> None:
    found = [str(node.target) for node in module.graph.nodes if node.meta.get("unbacked_bindings")]
    if found:
        raise CaptureError(
            f"shapes depend on values of tensors (through {', '.join(sorted(set(found)))}); "
            "a plan needs shapes that follow from the inputs' shapes."
        )


def flat_input_names(exported: ExportedProgram) -> list[str]:
    """The program's own names of all input leaves (for files, where no forward signature exists)."""
    specs = exported.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
