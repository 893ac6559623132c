"""From a clean captured graph to a schedule: groups, layouts, storages, kernels and steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx import Node

from ullage.codegen.emit import Spec
from ullage.codegen.kernel import Kernel
from ullage.codegen.lower import load_table
from ullage.codegen.lower.table import TABLE, fake, node_of
from ullage.codegen.lower.templates import CONVOLUTIONS, TEMPLATES
from ullage.codegen.lower.views import view_source
from ullage.codegen.schedule.concat import parts_in_place
from ullage.codegen.schedule.constants import ConstantPool
from ullage.codegen.schedule.emission import Emission
from ullage.codegen.schedule.facts import ModelFacts, origin
from ullage.codegen.schedule.groups import Group, Grouping
from ullage.codegen.schedule.join_beside import BesideJoiner
from ullage.codegen.schedule.join_rows import RowJoiner
from ullage.codegen.schedule.join_windows import WindowJoiner
from ullage.codegen.schedule.launches import Launches
from ullage.codegen.schedule.layout import Layouts
from ullage.codegen.schedule.lowering import TrialLowering
from ullage.codegen.schedule.memory import Memory
from ullage.codegen.schedule.packing import Packer
from ullage.codegen.schedule.signature import boundary_names, dimensions, input_infos, output_homes, output_infos
from ullage.codegen.schedule.weights import Weights
from ullage.errors import UnsupportedOperator
from ullage.graph.captured import CapturedModel
from ullage.plan.plan import TensorInfo
from ullage.plan.steps import Schedule
from ullage.target import Target


@dataclass(frozen=True)
class Scheduled:
    """A schedule with all that it names: kernels and their specifications by symbol, packers by constant, inputs,
    outputs and fusion groups."""

    schedule: Schedule
    kernels: dict[str, Kernel]
    packers: dict[str, Packer]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    groups: tuple[Group, ...]
    specs: dict[str, Spec] = field(repr=False)


def build_schedule(captured: CapturedModel, target: Target) -> Scheduled:
    """Fuse, lay out and lower a captured model; raises UnsupportedOperator naming all operators without a lowering."""
    load_table()
    facts, graph = ModelFacts(captured), captured.module.graph
    _refuse_unknown(facts)
    weights = Weights(facts, ConstantPool(captured.constants, target))
    groups = Grouping(graph, TrialLowering(weights, facts.dim_max), facts.is_constant).run()
    inputs, outputs = boundary_names(facts)
    homes = output_homes(facts, outputs)
    parts = parts_in_place(groups, homes, facts.math)
    memory = Memory(facts, weights.pool, Layouts(groups), homes, parts, outputs)
    emission = Emission(memory, weights)
    memory.declare_inputs(inputs)
    for group in groups:
        emission.group(group)
    emission.outputs()
    WindowJoiner(emission.steps, memory.storages, target, facts.dim_max).run()
    RowJoiner(emission.steps, memory.storages, target, facts.dim_max).run()
    BesideJoiner(emission.steps, memory.storages, facts.dim_max).run()
    return _scheduled(emission, groups, Launches(target, facts.dim_max))


def _scheduled(emission: Emission, groups: tuple[Group, ...], launches: Launches) -> Scheduled:
    memory, pool = emission.memory, emission.weights.pool
    facts = memory.facts
    steps = launches.steps(emission.steps, memory.storages)
    schedule = Schedule(steps, memory.ordered_storages(), pool.constants(), dimensions(facts))
    return Scheduled(
        schedule, launches.kernels, pool.packers(), input_infos(facts), output_infos(facts), groups, launches.specs
    )


def _refuse_unknown(facts: ModelFacts) -> None:
    unknown: dict[str, list[str]] = {}
    hint = "Rewrite the model without them, or capture the part that can be compiled."
    for node in facts.captured.module.graph.nodes:
        if node.op != "call_function":
            continue
        name = None if _known(node) else str(node.target)
        if node.target in CONVOLUTIONS:
            name = _unknown_convolution(facts, node)
        if name is not None and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            hint = "Draw random numbers outside of the model and pass them in."
        if name is not None:
            unknown.setdefault(name, []).append(origin(node))
    if unknown:
        raise UnsupportedOperator(unknown, hint)


def _unknown_convolution(facts: ModelFacts, node: Node) -> str | None:
    """What a convolution is that the templates do not cover."""
    spatial = fake(node).dim() - 2
    if spatial not in (1, 2):
        return f"{node.target} over {spatial} dimensions"
    return None if facts.is_constant(node_of(node.args[1])) else f"{node.target} with a computed weight"


def _known(node: Node) -> bool:
    """Whether a node can be lowered; one that gives numbers needs no kernel, one that splits only views of it."""
    value = node.meta["val"]
    if isinstance(value, tuple | list) and all(view_source(user) is not None for user in node.users):
        return True
    tensors = isinstance(value, torch.Tensor | tuple | list)
    return not tensors or TABLE.kind(node) is not None or node.target in TEMPLATES
