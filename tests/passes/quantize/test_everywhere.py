"""Every scheme at every budget, number of threads and shape within bounds gives the same bits."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch

from tests.codegen.schedule.scheduling import TARGET
from tests.codegen.schedule.whole_flow import artifact, budgets, results
from tests.passes.quantize.narrow_models import case, lossy, samples
from ullage.driver import Options, prepare
from ullage.frontends.load import load_model
from ullage.passes.quantize.names import parse_scheme
from ullage.runtime.load import load

SCHEMES = ("bfloat16", "int8", "int8-weights", "int4-weights", "int3-weights", "int2-weights")


CASES = [*product(("text", "image", "residual", "pyramid"), SCHEMES), ("heads", "bfloat16"), ("heads", "int8")]


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_bits_do_not_depend_on_budget_and_threads(name: str, scheme: str) -> None:
    module, inputs = case(name)
    found = []
    for threads in (1, 2, 3):
        model = lossy(module, inputs, scheme=scheme, target=TARGET.with_threads(threads))
        with artifact(model) as path:
            for budget in budgets(model):
                with load(path, budget) as runner:
                    found.append(results(runner, inputs))
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(others, found[0], strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bits_do_not_depend_on_the_shape(scheme: str) -> None:
    """One plan for up to 40 rows; each row is what it is alone."""
    module, (ids,) = case("text")
    captured = load_model(copy.deepcopy(module), (ids,), dynamic_shapes={"ids": {0: (1, 4), 1: (1, 10)}})
    options = Options(TARGET, quantize=parse_scheme(scheme), samples=samples(captured, (ids,)))
    with artifact(prepare(captured, options)) as path, load(path) as runner:
        (whole,) = results(runner, (ids,))
        for rows, length in ((1, 1), (2, 5), (2, 9)):
            (part,) = results(runner, (ids[:rows, :length].contiguous(),))
            assert torch.equal(part, whole[:rows, :length])
