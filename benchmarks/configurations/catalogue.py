"""Every configuration by name: what it is, and how its module and inputs are made (random weights, nothing loaded)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from benchmarks.configurations.autoencoders import AUTOENCODERS
from benchmarks.configurations.denoisers import Denoiser
from benchmarks.configurations.denoising_transformers import TRANSFORMERS
from benchmarks.configurations.families import ARCHITECTURES, FAMILIES, TASKS, Family
from benchmarks.configurations.inputs import inputs_of
from benchmarks.configurations.shrinking import shrunken
from benchmarks.configurations.unets import UNETS
from benchmarks.zoo import SEED, Sample, quiet_transformers


@dataclass(frozen=True)
class Configuration:
    """One configuration: `name` is unique, `architecture` is the library's name for the kind of model."""

    name: str
    library: str
    architecture: str
    task: str
    build: Callable[[], Sample]

    def make(self) -> Sample:
        """The module in eval mode and its inputs, the same each time."""
        quiet_transformers()
        torch.manual_seed(SEED)
        sample = self.build()
        sample.module.eval().requires_grad_(False)
        _stir(sample.module)
        return sample


def _stir(module: nn.Module) -> None:
    """Give parameters of one value, as of fresh norms and biases, and statistics some spread: equal ones hide much."""
    for parameter in module.parameters():
        constant = parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all())
        if parameter.is_floating_point() and constant:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)


def catalogue() -> list[Configuration]:
    """All configurations, transformers' by task and then diffusers'."""
    found = [_transformer(task, kind) for task, kinds in ARCHITECTURES.items() for kind in kinds.split()]
    return found + [_denoiser(entry) for entry in (*UNETS, *AUTOENCODERS, *TRANSFORMERS)]


def _transformer(task: str, kind: str) -> Configuration:
    return Configuration(f"{kind} ({task})", "transformers", kind, task, partial(_build_transformer, task, kind))


def _build_transformer(task: str, kind: str) -> Sample:
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name = getattr(modeling_auto, TASKS[task])[kind]
    model_class = getattr(transformers, name if isinstance(name, str) else name[0])
    family = FAMILIES.get(kind, Family())
    config = CONFIG_MAPPING[kind](**shrunken(CONFIG_MAPPING[kind], family.settings))
    model = model_class(config)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")
    return Sample(model, (), inputs_of(model, config, family.inputs))


def _denoiser(entry: Denoiser) -> Configuration:
    return Configuration(entry.name, "diffusers", entry.model, entry.task, partial(_build_denoiser, entry))


def _build_denoiser(entry: Denoiser) -> Sample:
    import diffusers

    model = getattr(diffusers, entry.model)(**entry.settings)
    return Sample(model, (), {name: made() for name, made in entry.inputs.items()})
