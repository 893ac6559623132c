"""Systems beside Ullage: models are spelled so that their exporters take them, and llama.cpp runs the same decoder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ullage.bench_export import Spelled, export_onnx, to_openvino
from ullage.bench_worker import _seconds_of_runs
from ullage.cli import main
from ullage.errors import InputError

HERE = "tests.cli.test_bench_others"
needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="gguf, the extra `llamacpp`, is missing"
)
needs_llama = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", "llama_cpp")),
    reason="llama-cpp-python or gguf, the extra `llamacpp`, is missing",
)


class Awkward(nn.Module):
    """What exporters do not know: differences, sums of booleans, and pooling windows larger than the image."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(64, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, h, w] → [batch, channels, 1, w]."""
        steps = torch.diff(x, dim=-1, prepend=x[..., :1])
        return self.pool(x) + steps + (steps != 0).cumsum(-1)[..., -1:, :]


def llama(**changes: Any) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A small decoder with biases, and a batch of token ids."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.zoo import Decoder

    sizes = {"vocab_size": 120, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}
    torch.manual_seed(7)
    model = Decoder(LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **changes}))).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model, (torch.randint(5, 120, (2, 24)),)


def scaled() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Rotations at other frequencies, larger heads, and one table for embeddings and logits."""
    rotations = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 16}
    return llama(head_dim=32, tie_word_embeddings=True, max_position_embeddings=128, rope_parameters=rotations)


def gelu() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A decoder that llama.cpp has no form for."""
    return llama(hidden_act="gelu")


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    """Rows by system."""
    code = main(["bench", *arguments, "--rounds", "1", "--json"])
    assert code == 0
    return {row["system"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


def test_spellings_have_the_same_values() -> None:
    x = torch.randn(2, 3, 5, 7)
    with Spelled():
        spelled = Awkward()(x)
        second, booleans = torch.diff(x, n=2, dim=1), (x > 0).diff(dim=0)
        strided = nn.functional.avg_pool2d(x, (2, 9), 3, 0, True)
    assert torch.equal(spelled, Awkward()(x))
    assert torch.equal(second, torch.diff(x, n=2, dim=1)) and torch.equal(booleans, (x > 0).diff(dim=0))
    assert torch.equal(strided, nn.functional.avg_pool2d(x, (2, 9), 3, 0, True))


def test_onnxruntime_takes_what_is_exported(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    x = torch.randn(1, 2, 6, 6)
    export_onnx(Awkward().eval(), (x,), tmp_path / "m.onnx", ["x"], ["y"])
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], Awkward()(x).numpy(), rtol=1e-5, atol=1e-6)


def test_openvino_takes_what_is_converted_at_its_sizes() -> None:
    openvino = pytest.importorskip("openvino")
    x = torch.randn(1, 2, 6, 6)
    model = to_openvino(Awkward().eval(), (x,))
    assert [list(value.partial_shape.to_shape()) for value in model.inputs] == [[1, 2, 6, 6]]
    result = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x.numpy()])[0]
    np.testing.assert_allclose(result, Awkward()(x).numpy(), rtol=1e-5, atol=1e-6)


@needs_gguf
def test_the_file_tells_what_the_model_is(tmp_path: Path) -> None:
    import gguf

    from ullage.bench_llama_file import prepare

    ids, logits = prepare(f"{HERE}:scaled", tmp_path / "m.gguf", 1)
    assert (ids.shape, logits.shape) == ((2, 24), (2, 24, 120))
    reader, model = gguf.GGUFReader(tmp_path / "m.gguf"), scaled()[0].model
    assert reader.get_field("llama.attention.key_length").contents() == 32
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert "output.weight" not in tensors and tensors["rope_freqs.weight"].shape == (16,)
    queries = model.model.layers[0].self_attn.q_proj.weight.numpy().reshape(4, 2, 16, 64)
    interleaved = tensors["blk.0.attn_q.weight"].reshape(4, 16, 2, 64)
    np.testing.assert_array_equal(interleaved[:, :, 1], queries[:, 1])


@needs_gguf
@pytest.mark.parametrize(
    "factory, reason", [("tests.small_models:perceptron", "0 LlamaForCausalLM"), (f"{HERE}:gelu", "gelu, not silu")]
)
def test_other_models_are_refused_for_llama(tmp_path: Path, factory: str, reason: str) -> None:
    from ullage.bench_llama_file import prepare

    with pytest.raises(InputError, match=reason):
        prepare(factory, tmp_path / "m.gguf", 1)


@needs_llama
@pytest.mark.parametrize("factory", [f"{HERE}:llama", f"{HERE}:scaled"])
def test_llama_runs_the_same_decoder(capsys: pytest.CaptureFixture[str], factory: str) -> None:
    row = bench(capsys, factory, "--against", "llamacpp")["llamacpp"]
    assert row["status"] == "ok" and row["seconds_median"] > 0 and 0 < row["peak_bytes"] < 64 << 20
    assert row["max_rel_error"] < 1e-5


@needs_llama
def test_llama_quantizes_where_ullage_does(capsys: pytest.CaptureFixture[str]) -> None:
    row = bench(capsys, f"{HERE}:llama", "--against", "llamacpp", "--quantize", "int8-weights")["llamacpp"]
    assert row["status"] == "ok" and 1e-4 < row["max_rel_error"] < 0.1


@needs_llama
def test_llama_says_what_it_has_no_type_for() -> None:
    from ullage.bench_llama import file_type

    with pytest.raises(InputError, match="nothing to compare with int2-weights/64"):
        file_type("int2-weights/64")


def test_llama_fails_by_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ModuleNotFoundError('no llama_cpp', name='llama_cpp')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = bench(capsys, "tests.small_models:perceptron", "--against", "llamacpp")
    assert rows["llamacpp"]["status"] == "missing: package llama_cpp is not installed"
    assert rows["ullage"]["status"] == "ok"


def test_a_turn_has_one_run_at_least_and_as_many_as_fit() -> None:
    calls: list[int] = []

    def call() -> dict[str, Any]:
        calls.append(len(calls))
        return {}

    assert len(_seconds_of_runs(call, 0.0)) == len(calls) == 1
    assert len(_seconds_of_runs(call, 0.01)) == len(calls) - 1 > 1
