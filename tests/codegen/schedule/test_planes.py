"""Three-dimensional convolutions, which run as sums over the planes of their kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.codegen.schedule.whole_flow import error, prepared, results, running

VIDEO = torch.randn(2, 4, 7, 9, 8, generator=torch.Generator().manual_seed(0))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "uneven": {"kernel_size": (2, 3, 1), "padding": (1, 2, 0), "bias": False},
    "strided": {"kernel_size": 3, "stride": (2, 1, 2), "padding": (0, 1, 1)},
    "dilated": {"kernel_size": (3, 2, 2), "dilation": (3, 1, 2)},
    "grouped": {"kernel_size": 2, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
    "patches": {"kernel_size": (7, 3, 4), "stride": (7, 3, 4)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_against_float64(name: str) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv3d(4, 8, **OPTIONS[name]), nn.ReLU()).requires_grad_(False)
    truth = copy.deepcopy(module).double()(VIDEO.double())
    with running(prepared(module, (VIDEO,))) as runner:
        (found,) = results(runner, (VIDEO,))
    assert found.shape == truth.shape
    assert error(found, truth) < 1e-6


TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "upsampling": {"kernel_size": 2, "stride": 2},
    "padded": {"kernel_size": 4, "stride": 2, "padding": 1},
    "uneven": {"kernel_size": (2, 3, 1), "stride": (3, 1, 2), "padding": (1, 2, 0), "bias": False},
    "with more planes": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "with more planes than strides": {"kernel_size": 2, "dilation": 3, "output_padding": 2},
    "dilated": {"kernel_size": (3, 2, 2), "dilation": (3, 1, 2)},
    "grouped": {"kernel_size": 2, "stride": (2, 1, 1), "groups": 2},
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_against_float64(name: str) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.ConvTranspose3d(4, 8, **TRANSPOSED[name]), nn.ReLU()).requires_grad_(False)
    truth = copy.deepcopy(module).double()(VIDEO.double())
    with running(prepared(module, (VIDEO,))) as runner:
        (found,) = results(runner, (VIDEO,))
    assert found.shape == truth.shape
    assert error(found, truth) < 1e-6
