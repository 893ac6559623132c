"""What comes as complex numbers or in integers of all widths, compiled and judged against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fft
from torch.utils import _pytree as pytree

from tests.opinfo.catalogue import Case
from tests.opinfo.judge import Calls, judged, run
from ullage.errors import CaptureError, UnsupportedOperator
from ullage.frontends.load import load_model

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def case(name: str, function: Callable[..., Any], *tensors: Tensor) -> Case:
    leaves, spec = pytree.tree_flatten((tensors, {}))
    return Case(name, name, tensors[0].dtype, function, spec, tuple(leaves))


def _rotary(q: Tensor, angle: Tensor) -> Tensor:
    pairs = torch.view_as_complex(q.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def _spectral(x: Tensor, w: Tensor) -> Tensor:
    frequencies = fft.rfft2(x, norm="ortho") * torch.view_as_complex(w)
    return fft.irfft2(frequencies, s=x.shape[-2:], norm="ortho")


def _spectrogram(x: Tensor) -> Tensor:
    return torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True).abs()


def _complex_cases() -> Iterator[Case]:
    torch.manual_seed(0)
    r = torch.randn
    for n in (1, 7, 30, 256, 131):
        yield case(f"rfft of {n}", lambda x: torch.view_as_real(fft.rfft(x)), r(3, n))
        yield case(f"irfft to {n}", lambda x, n=n: fft.irfft(torch.view_as_complex(x), n), r(3, n // 2 + 1, 2))
    yield case("ifft", lambda x: torch.view_as_real(fft.ifft(torch.view_as_complex(x), norm="ortho")), r(3, 24, 2))
    yield case("mixing of tokens", lambda x: fft.fft(fft.fft(x, dim=-1), dim=-2).real, r(2, 16, 32))
    yield case("spectral layer", _spectral, r(2, 3, 8, 9), r(3, 8, 5, 2))
    yield case("rotary embedding", _rotary, r(2, 5, 4, 8), r(5, 1, 4))
    yield case("spectrogram", _spectrogram, r(2, 64))
    for name, function in {
        "quotient": lambda a, b: (torch.complex(a, b) * 2 - 1j) / torch.complex(b, a) + a,
        "padded": lambda a, b: F.pad(torch.complex(a, b), (1, 2), value=1.0),
        "joined with real ones": lambda a, b: torch.cat([torch.complex(a, b), a])[2:],
        "chosen": lambda a, b: torch.where(a > 0, torch.complex(a, b), b),
        "product of matrices": lambda a, b: torch.complex(a, b)[:, None] @ torch.complex(b, a)[None],
    }.items():
        yield case(name, lambda a, b, function=function: torch.view_as_real(function(a, b)), r(9), r(9))


def _integer_cases() -> Iterator[Case]:
    torch.manual_seed(1)
    for dtype in INTEGERS:
        limits = torch.iinfo(dtype)
        a = torch.randint(max(limits.min, -(2**62)), min(limits.max, 2**62), (200,)).to(dtype)
        a[:4], a[4:8] = limits.min, limits.max
        b = torch.randint(max(limits.min, -3), limits.bits + 3, (200,)).to(dtype)
        for name, function in {
            "shifted left": lambda a, b: a << b, "shifted right": lambda a, b: a >> b, "added": lambda a, b: a + 3 * b,
            "multiplied": lambda a, b: a * a * b, "negated": lambda a, b: -a, "absolute": lambda a, b: a.abs(),
            "cubed": lambda a, b: a**3, "matrices": lambda a, b: a.reshape(10, 20) @ b.reshape(20, 10),
        }.items():  # fmt: skip
            yield case(f"{name} {dtype}", function, a, b)


@pytest.mark.parametrize("cases", [_complex_cases, _integer_cases])
def test_they_give_what_pytorch_gives(cases: Callable[[], Iterator[Case]]) -> None:
    wrong = [f"{one.operator}: {fault}" for one, fault in judged(list(cases())) if fault is not None]
    assert not wrong, "\n".join(wrong)


def test_division_of_integers_by_zero_gives_a_number(tmp_path: Any) -> None:
    cases = []
    for dtype in INTEGERS:
        low = torch.iinfo(dtype).min
        a, zero = torch.tensor([low, 1, 0, 5]).to(dtype), torch.tensor([-1 if low else 0, 0, 0, 0]).to(dtype)
        for mode in ("floor", "trunc"):
            cases.append(case(mode, lambda a, b, mode=mode: torch.div(a, b, rounding_mode=mode), a, zero))
        cases += [case("remainder", torch.remainder, a, zero), case("fmod", torch.fmod, a, zero)]
    results = run(Calls(cases), tmp_path / "divisions.ullage")
    assert all(result.shape == (4,) for result in results)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: torch.view_as_real(x * 2), CaptureError, "view_as_real"),
        (lambda x: x, CaptureError, "complex"),
    ],
)
def test_complex_inputs_are_refused(function: Callable[..., Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_model(function, (torch.ones(3, dtype=torch.complex64),))


def test_complex_operators_without_a_form_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="complex"):
        load_model(lambda x: torch.view_as_real(torch.view_as_complex(x).tan()), (torch.ones(3, 2),))


def test_dropout_in_attention_is_refused() -> None:
    q = torch.ones(1, 2, 3, 4)
    with pytest.raises(UnsupportedOperator, match="dropout"):
        load_model(lambda q: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5), (q,))
