"""Hugging Face folders: weights stay in their files, names are matched as `from_pretrained` does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from tests.frontends.zoo import MODELS, SMALL_IMAGE, SMALL_TEXT, ids, image, mask
from ullage.errors import CaptureError, InputError
from ullage.frontends.load import load_model
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.graph.sources import FileSlice
from ullage.graph.verify import verify


def saved(model: Any, folder: Path, **options: Any) -> Path:
    model.eval().save_pretrained(folder, **options)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TEXT_SPECS = {"input_ids": ("int64", (2, 8)), "attention_mask": (torch.int64, (2, 8))}


def agrees(captured: CapturedModel, reference: Any) -> None:
    verify(captured)
    with torch.no_grad():
        wanted = reference.eval()(input_ids=ids(), attention_mask=mask())
    found = run_captured(captured, [ids(), mask()])
    assert [spec.name for spec in captured.outputs] == list(wanted.keys())
    for mine, theirs in zip(found, wanted.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Any, Path]:
    torch.manual_seed(0)
    model = hf.BertModel(hf.BertConfig(**SMALL_TEXT))
    return model, saved(model, tmp_path)


def test_weights_are_references_into_the_file(bert: tuple[Any, Path]) -> None:
    model, folder = bert
    captured = load_model(folder, input_specs=TEXT_SPECS)
    agrees(captured, model)
    held = [ref for ref in captured.constants.values() if not isinstance(ref.source, FileSlice)]
    assert sum(ref.nbytes for ref in held) < 2048


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertModel(hf.BertConfig(**SMALL_TEXT))
    folder = saved(model, tmp_path, max_shard_size="20KB")
    captured = load_model(folder, input_specs=TEXT_SPECS)
    files = {ref.source.path for ref in captured.constants.values() if isinstance(ref.source, FileSlice)}
    assert len(files) > 1
    agrees(captured, model)


def test_a_head_model_finds_a_base_checkpoint_by_prefix_and_names_what_is_missing(bert: tuple[Any, Path]) -> None:
    _, folder = bert
    settings(folder, architectures=["BertForSequenceClassification"])
    with pytest.raises(CaptureError, match=r"lack 2 .* classifier\.weight, classifier\.bias") as caught:
        load_model(folder, input_specs=TEXT_SPECS)
    assert "\n" not in str(caught.value)


def test_a_base_model_finds_a_head_checkpoint_by_prefix(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertForSequenceClassification(hf.BertConfig(**SMALL_TEXT))
    folder = saved(model, tmp_path)
    assert all(key.startswith(("bert.", "classifier.")) for key in load_file(folder / "model.safetensors"))
    settings(folder, architectures=["BertModel"])
    captured = load_model(folder, input_specs=TEXT_SPECS)
    agrees(captured, model.bert)
    read = [ref for ref in captured.constants.values() if isinstance(ref.source, FileSlice)]
    assert len(read) == len(list(model.bert.parameters()))


def test_names_that_fit_need_no_rules(bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = bert

    def rules(model: object) -> None:
        pytest.fail("rules were made")

    monkeypatch.setattr("ullage.frontends.hf_weights._rules", rules)
    agrees(load_model(folder, input_specs=TEXT_SPECS), model)


def test_parameters_are_not_drawn_in_vain(bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Tensor.normal_

    def normal(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert not self.is_meta
        return draw(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "normal_", normal)
    load_model(bert[1], input_specs=TEXT_SPECS)


def test_old_names_of_norms_are_understood(bert: tuple[Any, Path]) -> None:
    model, folder = bert

    def old(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return {
            next((key.replace(new, was) for new, was in names.items() if key.endswith(new)), key): value
            for key, value in tensors.items()
        }

    rewrite(folder, old)
    agrees(load_model(folder, input_specs=TEXT_SPECS), model)


def test_tied_weights_come_from_one_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=40, n_positions=32, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = hf.GPT2LMHeadModel(config)
    captured = load_model(saved(model, tmp_path), input_specs=TEXT_SPECS)
    names = [ref.name for ref in captured.constants.values() if ref.shape == (40, 32)]
    assert len(names) == 1
    assert not any("past_key_values" in spec.name for spec in captured.outputs)


def test_half_weights_are_computed_in_half_unless_the_config_says_otherwise(bert: tuple[Any, Path]) -> None:
    _, folder = bert
    rewrite(folder, lambda tensors: {key: value.bfloat16() for key, value in tensors.items()})
    settings(folder, dtype="bfloat16")
    assert load_model(folder, input_specs=TEXT_SPECS).outputs[0].dtype == torch.bfloat16
    settings(folder, dtype="float32")
    captured = load_model(folder, input_specs=TEXT_SPECS)
    assert captured.outputs[0].dtype == torch.float32
    agrees(captured, hf.BertModel.from_pretrained(folder, dtype=torch.float32))


def test_usual_inputs_of_text_and_image_models(tmp_path: Path, bert: tuple[Any, Path]) -> None:
    _, folder = bert
    text = load_model(folder)
    assert [(spec.name, tuple(spec.shape)) for spec in text.inputs] == [
        ("input_ids", (1, 32)), ("attention_mask", (1, 32)),
    ]  # fmt: skip
    vision = load_model(saved(hf.ViTModel(hf.ViTConfig(**SMALL_IMAGE)), tmp_path / "vit"))
    assert [(spec.name, tuple(spec.shape)) for spec in vision.inputs] == [("pixel_values", (1, 3, 32, 32))]


def test_running_statistics_are_read_from_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1]))
    model(image())
    captured = load_model(saved(model, tmp_path), input_specs={"pixel_values": ("float32", (1, 3, 32, 32))})
    with torch.no_grad():
        wanted = model.eval()(image()).last_hidden_state
    torch.testing.assert_close(run_captured(captured, [image()])[0], wanted, rtol=1e-4, atol=1e-5)


def test_buffers_that_the_model_computes_need_not_be_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1])
    folder = saved(hf.ResNetModel(config), tmp_path)
    rewrite(folder, lambda tensors: {key: value for key, value in tensors.items() if "running_mean" not in key})
    captured = load_model(folder, input_specs={"pixel_values": ("float32", (1, 3, 32, 32))})
    means = [ref for ref in captured.constants.values() if ref.name.endswith("running_mean")]
    assert means
    assert not any(ref.read().any() for ref in means)


def test_weights_that_would_have_to_be_merged_are_refused(tmp_path: Path) -> None:
    config = hf.MixtralConfig(**SMALL_TEXT, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(CaptureError, match=r"lack 2 .*experts\.gate_up_proj.*merged or split"):
        load_model(saved(hf.MixtralForCausalLM(config), tmp_path), input_specs=TEXT_SPECS)


def test_a_class_that_only_its_own_module_knows_is_found(tmp_path: Path) -> None:
    module, (features,), _ = MODELS["whisper_encoder"]()
    captured = load_model(saved(module, tmp_path))
    assert [(spec.name, tuple(spec.shape)) for spec in captured.inputs] == [("input_features", tuple(features.shape))]


def test_equal_ranges_on_one_axis_are_one_dimension(bert: tuple[Any, Path]) -> None:
    model, folder = bert
    axes = {0: (1, 4), 1: (1, 32)}
    captured = load_model(folder, dynamic_shapes={"input_ids": axes, "attention_mask": axes})
    assert [(dim.minimum, dim.maximum) for dim in captured.dims] == [(1, 4), (1, 32)]
    agrees(captured, model)


def damage_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def flatten(folder: Path) -> None:
    rewrite(folder, lambda tensors: {key: value.flatten() for key, value in tensors.items()})


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (damage_header, "header does not fit"),
        (cut, "cut short"),
        (flatten, "shapes of weights.*differ"),
        (lambda folder: (folder / "model.safetensors").unlink(), "needs model.safetensors.*found none"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: settings(folder, model_type="unheard-of"), "not understood by transformers"),
        (lambda folder: settings(folder, architectures=["NoSuchModel"]), "no class NoSuchModel"),
        (lambda folder: settings(folder, quantization_config={}), "quantized already"),
    ],
)
def test_a_broken_folder_is_refused(bert: tuple[Any, Path], break_it: Callable[[Path], Any], message: str) -> None:
    _, folder = bert
    break_it(folder)
    with pytest.raises(CaptureError, match=message):
        load_model(folder, input_specs=TEXT_SPECS)


@pytest.mark.parametrize("spec", [("float99", (1, 8)), ("int64", (0, 8))])
def test_impossible_input_specs_are_refused(bert: tuple[Any, Path], spec: tuple[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="input_ids"):
        load_model(bert[1], input_specs={"input_ids": spec})


def test_a_file_that_changes_after_capture_is_noticed(bert: tuple[Any, Path]) -> None:
    captured = load_model(bert[1], input_specs=TEXT_SPECS)
    rewrite(bert[1], lambda tensors: {key: value + 1 for key, value in tensors.items()})
    with pytest.raises(CaptureError, match="changed after"):
        run_captured(captured, [ids(), mask()])


MEASURE = """
import resource, sys
from pathlib import Path
from ullage.frontends.load import load_model
load_model(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
captured = load_model(Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sum(r.nbytes for r in captured.constants.values()))
"""


def test_capturing_needs_no_memory_for_weights(bert: tuple[Any, Path], tmp_path: Path) -> None:
    """A model of the same depth and 90 MB more of weights takes a small part of that more to capture."""
    config = hf.BertConfig(**{**SMALL_TEXT, "vocab_size": 120_000, "hidden_size": 192})
    large = saved(hf.BertModel(config), tmp_path / "large")
    command = [sys.executable, "-c", MEASURE, str(bert[1]), str(large)]
    grown_kib, weight_bytes = map(
        int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    )
    assert weight_bytes > 90e6
    assert grown_kib * 1024 < weight_bytes / 6
