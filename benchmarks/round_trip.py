"""Twenty models to ONNX and back: what ONNX Runtime and our own compiler make of the file, beside eager PyTorch.

`python -m benchmarks.round_trip [NAME ...]` prints a table of the largest relative errors (over a result's largest
value) of ONNX Runtime on the written model and of the model that is compiled from it, and exits with 1 beyond float32
rounding. Models are tiny: what counts is which operators they have.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import ullage
from benchmarks.zoo import SEED, ZOO, Decoder, Pick, Sample, TextModel, quiet_transformers
from ullage.frontends.load import load_model

ROUNDING = 1e-5
"""What float32 rounding may add up to over the layers of these models: a hundred units in the last place."""
_TEXT: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip


def _text(model_type: str, **more: Any) -> Sample:
    from transformers import AutoConfig, AutoModel

    ids = torch.randint(5, 120, (2, 12))
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **{**_TEXT, **more}))
    return Sample(TextModel(model), (ids, torch.ones(2, 12, dtype=torch.int64)), {})


def _causal(model_type: str, **more: Any) -> Sample:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**_TEXT, **more}))
    return Sample(Decoder(model), (torch.randint(5, 120, (2, 12)),), {})


class _Denoiser(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, step: torch.Tensor, text: torch.Tensor) -> Any:
        return self.model(image, step, text, return_dict=False)[0]


def _denoiser() -> Sample:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([7]), torch.randn(1, 5, 16))
    return Sample(_Denoiser(model), inputs, {})


def _decoder_of_images() -> Sample:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    return Sample(Pick(_Decode(model), "sample"), (torch.randn(1, 4, 8, 8),), {})


class _Decode(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: torch.Tensor) -> Any:
        return self.model.decode(latents)


def _of_zoo(name: str) -> Sample:
    return ZOO[name].make(tiny=True)


_ZOO_NAMES = (
    "bert_base", "roberta", "distilbert", "vit_b16", "swin_t", "resnet50", "mobilenet_v2", "convnext_t",
    "efficientnet_b0", "segformer_b0", "unet", "clip", "whisper_tiny", "t5_small", "gpt2", "llama", "mamba", "lstm",
)  # fmt: skip
MODELS: dict[str, Callable[[], Sample]] = {
    **{name: partial(_of_zoo, name) for name in _ZOO_NAMES},
    "electra": partial(_text, "electra", embedding_size=16),
    "mpnet": partial(_text, "mpnet"),
    "qwen2": partial(_causal, "qwen2", num_key_value_heads=1),
    "gpt_neox": partial(_causal, "gpt_neox"),
    "opt": partial(_causal, "opt", ffn_dim=64, word_embed_proj_dim=32),
    "diffusion_unet": _denoiser,
    "image_decoder": _decoder_of_images,
}
"""More than twenty, since those from packages that are not installed are left out."""


@dataclass(frozen=True)
class Row:
    """A model's errors; `nodes` are those of the ONNX graph."""

    name: str
    nodes: int
    runtime_error: float
    own_error: float

    @property
    def passed(self) -> bool:
        """Whether both are within float32 rounding."""
        return max(self.runtime_error, self.own_error) <= ROUNDING


def made(name: str) -> Sample:
    """A model by name, from a fixed seed."""
    quiet_transformers()
    torch.manual_seed(SEED)
    sample = MODELS[name]()
    sample.module.eval().requires_grad_(False)
    return sample


def relative_error(found: Sequence[Any], wanted: Sequence[torch.Tensor]) -> float:
    """The largest difference over the largest value, of the worst result."""
    pairs = [(torch.as_tensor(a).double(), b.double()) for a, b in zip(found, wanted, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def runtime_results(path: Path, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What ONNX Runtime computes, inputs in the model's order; products with decoded weights in float32.

    (By default it rounds what is multiplied with decoded weights to 8 bits.)
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(found) for found in session.run(None, feed)]


def round_trip(name: str, folder: Path) -> Row:
    """Write a model, check the file, run it by ONNX Runtime, compile it again, and compare both with eager PyTorch."""
    import onnx

    sample, path = made(name), folder / f"{name}.onnx"
    ullage.export_onnx(sample.module, path, sample.inputs, example_kwargs=sample.kwargs)
    onnx.checker.check_model(path, full_check=True)
    inputs = [x for x in pytree.tree_leaves((sample.inputs, sample.kwargs)) if isinstance(x, torch.Tensor)]
    with torch.no_grad():
        results = pytree.tree_leaves(sample.module(*sample.inputs, **sample.kwargs))
    wanted = [x for x in results if isinstance(x, torch.Tensor)]
    names = [spec.name for spec in load_model(path).inputs]
    given = [spec.name for spec in load_model(sample.module, sample.inputs, sample.kwargs).inputs]
    assert names == given, f"inputs of {name} changed their names: {given} became {names}"
    again = ullage.compile(path)(*inputs)
    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    return Row(name, nodes, relative_error(runtime_results(path, inputs), wanted), relative_error(again, wanted))


def main(names: Sequence[str]) -> int:
    """Print the table; 1 if a model errs beyond rounding."""
    print(f"{'model':18} {'nodes':>6} {'ONNX Runtime':>13} {'compiled again':>15}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or MODELS:
            try:
                row = round_trip(name, Path(folder))
            except ImportError as error:
                print(f"{name:18} left out: {error}")
                continue
            rows.append(row)
            verdict = "" if row.passed else "  beyond rounding"
            print(f"{name:18} {row.nodes:6} {row.runtime_error:13.1e} {row.own_error:15.1e}{verdict}", flush=True)
    passed = sum(row.passed for row in rows)
    print(f"{passed} of {len(rows)} models within {ROUNDING:.0e}")
    return 0 if passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
