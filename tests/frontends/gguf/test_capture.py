"""GGUF files give the results of transformers' models with the same weights, and damage is told in one line."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")

import ullage  # noqa: E402
from tests.frontends.gguf.writing import Q, random_blocks, small_model, write  # noqa: E402
from ullage.cli import main  # noqa: E402
from ullage.errors import CaptureError  # noqa: E402
from ullage.frontends.gguf.blocks import KINDS  # noqa: E402
from ullage.frontends.gguf.header import Long, open_gguf  # noqa: E402
from ullage.frontends.gguf.weights import interleaved, source_of  # noqa: E402
from ullage.frontends.load import load_model  # noqa: E402
from ullage.graph.constants import ConstantRef  # noqa: E402
from ullage.graph.integers import grouped_weight  # noqa: E402
from ullage.graph.operators import decoded  # noqa: E402
from ullage.graph.recipes import Concatenated  # noqa: E402
from ullage.graph.reference import run_captured  # noqa: E402

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
MIXED = {"attn_q": Q.Q8_0, "attn_k": Q.Q4_0, "attn_v": Q.Q5_1, "ffn_up": Q.Q4_1, "ffn_gate": Q.F16, "token": Q.Q8_0,
         "ffn_down": Q.Q5_0, "attn_output": Q.BF16, "attn_qkv": Q.Q8_0}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "kind"), [(n, k) for n, k in KINDS.items() if k.decode], ids=lambda v: getattr(v, "name", "")
)
def test_blocks_are_decoded_as_defined(number: int, kind: Any) -> None:
    """Every bit pattern, by the decoder of llama.cpp's own package."""
    blocks = random_blocks(Q(number), 64)
    assert (kind.values, kind.bytes) == gguf.GGML_QUANT_SIZES[Q(number)]
    with np.errstate(all="ignore"):
        found, wanted = kind.decode(blocks), gguf.dequantize(blocks, Q(number))
    np.testing.assert_array_equal(found, wanted)


def agrees(path: Path, model: Any) -> None:
    """The captured model's logits are those of the model that was written."""
    captured = load_model(path, None, {"input_ids": TOKENS})
    (found,) = run_captured(captured, [TOKENS])
    with torch.no_grad():
        wanted = model(input_ids=TOKENS).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_file_is_the_model_that_was_written(kind: str, tmp_path: Path) -> None:
    """Matrices of eight types; heads that rotary embeddings see in pairs are put back."""
    model = small_model(kind, tie_word_embeddings=kind == "gpt2")
    write(tmp_path / "m.gguf", model, MIXED)
    agrees(tmp_path / "m.gguf", model)


def test_factors_of_frequencies_are_applied(tmp_path: Path) -> None:
    model = small_model("llama", tie_word_embeddings=True)
    factors = torch.tensor([1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0])
    model.rope_freqs = torch.nn.Module()
    model.rope_freqs.weight = torch.nn.Parameter(factors, requires_grad=False)
    write(tmp_path / "m.gguf", model)
    model.model.rotary_emb.inv_freq.div_(factors)
    agrees(tmp_path / "m.gguf", model)


def test_boxes_are_read_without_the_rest(tmp_path: Path) -> None:
    """Any part of a tensor of blocks, also one that begins inside a block."""
    model = small_model("llama")
    write(tmp_path / "m.gguf", model, {"ffn_down": Q.Q8_0})
    file = open_gguf(tmp_path / "m.gguf")
    source = source_of(file, file.tensors["blk.1.ffn_down.weight"])
    whole = source.read((slice(0, 64), slice(0, 96)))
    for rows, columns in ((slice(3, 9), slice(40, 71)), (slice(63, 64), slice(0, 96)), (slice(5, 5), slice(0, 96))):
        assert torch.equal(source.read((rows, columns)), whole[rows, columns])


@pytest.mark.parametrize(("kind", "bits"), [(Q.Q8_0, 8), (Q.Q4_0, 4)])
def test_codes_are_taken_as_they_are(kind: Q, bits: int, tmp_path: Path) -> None:
    """Also those of queries and keys, whose rows change places, and of several weights that become one."""
    model = small_model("llama")
    write(tmp_path / "m.gguf", model, {name: kind for name in ("attn_q", "attn_v", "ffn_down")})
    file = open_gguf(tmp_path / "m.gguf")
    attention = model.model.layers[0].self_attn
    query = interleaved("q", source_of(file, file.tensors["blk.0.attn_q.weight"]), 4)
    value = source_of(file, file.tensors["blk.0.attn_v.weight"])
    held = [ConstantRef("q", torch.float32, (64, 64), query), ConstantRef("v", torch.float32, (32, 64), value)]
    both = ConstantRef("qv", torch.float32, (96, 64), Concatenated(tuple(held), 0))
    codes, scales = (part.read() for part in grouped_weight(both, bits, 32))
    wanted = torch.cat((attention.q_proj.weight, attention.v_proj.weight))
    assert torch.equal(decoded(codes, scales, bits), wanted)
    assert torch.equal(codes[7:9, 33:40], grouped_weight(both, bits, 32)[0].read((slice(7, 9), slice(33, 40))))


def test_a_file_in_codes_runs_in_them(tmp_path: Path) -> None:
    """Nothing is lost but what activations of 16 bits lose; tables of embeddings are bfloat16 in both."""
    model = small_model("llama", tie_word_embeddings=False)
    write(tmp_path / "m.gguf", model, dict.fromkeys(MIXED, Q.Q8_0) | {"token": Q.BF16, "output": Q.Q8_0})
    specs = {"input_ids": ("int64", (1, 8))}
    made = ullage.compile(str(tmp_path / "m.gguf"), quantize="int8-weights", input_specs=specs)
    with torch.no_grad():
        wanted = model(input_ids=TOKENS).logits
    assert (made(input_ids=TOKENS)["logits"] - wanted).norm() / wanted.norm() < 2e-4


def test_long_arrays_are_counted_and_not_kept(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", [str(i) for i in range(5000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 5000)
    writer.add_array("short", [1, 2, 3])
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    metadata = open_gguf(tmp_path / "m.gguf").metadata
    assert metadata["tokenizer.ggml.tokens"] == metadata["tokenizer.ggml.scores"] == Long(5000)
    assert metadata["short"] == [1, 2, 3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write(path, small_model("llama"), {"attn_q": Q.Q8_0})
    return path.read_bytes()


HEAD = struct.Struct("<4sIQQ")
LIES = {
    "empty": b"",
    "another format": b"PK\x03\x04" + bytes(100),
    "another version": HEAD.pack(b"GGUF", 1, 0, 0),
    "big-endian": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),
    "endless tensors": HEAD.pack(b"GGUF", 3, 1 << 60, 0),
    "endless keys": HEAD.pack(b"GGUF", 3, 0, 1 << 60),
    "an endless name": HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 62) + bytes(64),
    "an endless text": HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIQ", 1, b"k", 8, 1 << 62) + bytes(64),
    "an endless array": HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 4, 1 << 61) + bytes(64),
    "arrays without end": HEAD.pack(b"GGUF", 3, 0, 1)
    + struct.pack("<Q1s", 1, b"k")
    + struct.pack("<IIQ", 9, 9, 1) * 40,
    "an unknown type": HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 77) + bytes(64),
    "no architecture": HEAD.pack(b"GGUF", 3, 0, 0),
    "a huge tensor": HEAD.pack(b"GGUF", 3, 1, 0)
    + struct.pack("<Q1sI4QIQ", 1, b"t", 4, *(1 << 60,) * 4, 0, 0)
    + bytes(64),
    "a tensor without rank": HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sI", 1, b"t", 9) + bytes(64),
    "an unread type": HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 99, 0) + bytes(64),
    "half a block": HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 33, 8, 0) + bytes(64),
}


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(LIES[name])
    with pytest.raises(CaptureError, match=r"m\.gguf") as refusal:
        load_model(path)
    assert "\n" not in str(refusal.value)


def test_a_file_cut_anywhere_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for length in [*range(0, 3000, 97), len(whole) - 1, len(whole) // 2]:
        path.write_bytes(whole[:length])
        with pytest.raises(CaptureError):
            open_gguf(path)


def test_flipped_bits_of_the_header_never_crash(whole: bytes, tmp_path: Path) -> None:
    """Either the file is refused, or it reads as another one."""
    path = tmp_path / "m.gguf"
    random = np.random.default_rng(1)
    for place in random.integers(0, 2500, 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            open_gguf(path)
        except CaptureError:
            continue


@pytest.mark.parametrize("name", ["an endless array", "a huge tensor"])
def test_the_command_says_so_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.gguf").write_bytes(LIES[name])
    assert main(["convert", str(tmp_path / "m.gguf"), "-o", str(tmp_path / "m.ullage"), "--budget", "8MiB"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ullage: error:")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type"),
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"llama.attention.value_length": 99}, "value_length is 99"),
        ({"split.count": 2}, "one part of several"),
        ({"general.alignment": 3}, "alignment"),
    ],
)
def test_settings_that_are_not_understood_are_named(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", small_model("llama"), more=more)
    with pytest.raises(CaptureError, match=message):
        load_model(tmp_path / "m.gguf")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "rwkv7")
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(CaptureError, match="architecture 'rwkv7'; llama, qwen2, qwen3, gpt2 are read"):
        load_model(tmp_path / "m.gguf")


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    model = small_model("llama")
    write(tmp_path / "m.gguf", model, extra="token_types.weight")
    with pytest.raises(CaptureError, match=r"no place for, such as 'token_types\.weight'"):
        load_model(tmp_path / "m.gguf")
    del model.model.layers[1].mlp.up_proj
    write(tmp_path / "n.gguf", model)
    with pytest.raises(CaptureError, match=r"lack 1 of .*up_proj.weight"):
        load_model(tmp_path / "n.gguf")
