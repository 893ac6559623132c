"""Arrays at the border: torch tensors without a copy, bfloat16 as bits, every dtype."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.handmade import PAGE, ROOT, gather_plan, matrix, resident_dot_plan, twice_plan, write
from ullage.errors import InputError
from ullage.plan.plan import TensorInfo
from ullage.runtime.load import load
from ullage.runtime.tensors import Inputs, Outputs

torch = pytest.importorskip("torch")


def inputs(dtype: str, *shape: int) -> Inputs:
    return Inputs([TensorInfo("x", dtype, tuple((n,) for n in shape))], [])


def test_torch_tensors_are_taken_where_they_are() -> None:
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    (address,), shapes, _ = inputs("float32", 2, 3).bind([x])
    assert (address, shapes) == (x.data_ptr(), ((2, 3),))


def test_numpy_arrays_are_taken_where_they_are() -> None:
    x = np.zeros((2, 3), np.float32)
    (address,), shapes, _ = inputs("float32", 2, 3).bind([x])
    assert (address, shapes) == (x.ctypes.data, ((2, 3),))


def test_torch_results_equal_numpy_results(tmp_path: Path) -> None:
    runner = load(write(tmp_path / "a.ullage", twice_plan(1000)))
    x = torch.randn(1000, requires_grad=True)
    wanted = 2 * x.detach().numpy() + 1
    for given in (x, x.detach().flip(0).flip(0), torch.stack([x, x], 1)[:, 1], torch.nn.Parameter(x.detach())):
        y = runner(given)
        assert isinstance(y, np.ndarray) and np.array_equal(y, wanted)


def test_lazy_negation_is_carried_out(tmp_path: Path) -> None:
    runner = load(write(tmp_path / "a.ullage", twice_plan(1000)))
    z = torch.complex(torch.randn(1000), torch.randn(1000)).conj()
    x = torch.imag(z)
    assert x.is_neg()
    assert np.array_equal(runner(x), 2 * x.resolve_neg().numpy() + 1)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_every_dtype_is_told_from_the_others(dtype: str) -> None:
    bound = inputs(dtype, 3)
    bound.bind([np.zeros(3, dtype)])
    bound.bind([torch.zeros(3, dtype=getattr(torch, dtype))])
    other = "int64" if dtype != "int64" else "int32"
    for wrong in (np.zeros(3, other), torch.zeros(3, dtype=getattr(torch, other))):
        with pytest.raises(InputError, match=f"dtype {dtype} wanted, found {other}"):
            bound.bind([wrong])


def test_bfloat16_travels_as_bits() -> None:
    bound = inputs("bfloat16", 3)
    x = torch.ones(3, dtype=torch.bfloat16)
    assert bound.bind([x])[0] == [x.data_ptr()]
    bits = x.view(torch.uint16).numpy()
    assert bound.bind([bits])[0] == [bits.ctypes.data]
    with pytest.raises(InputError, match="dtype bfloat16 wanted, found float16"):
        bound.bind([torch.ones(3, dtype=torch.float16)])
    outputs = Outputs([TensorInfo("y", "bfloat16", ((3,),))], [])
    outputs.resize({})
    assert outputs.views(outputs.take())[0].dtype == np.uint16


def test_tensors_elsewhere_are_refused() -> None:
    for wrong in (torch.zeros(3, device="meta"), torch.zeros(3).to_sparse()):
        with pytest.raises(InputError, match="a dense CPU tensor wanted"):
            inputs("float32", 3).bind([wrong])


def test_plain_numbers_stand_for_scalars() -> None:
    bound = inputs("int64")
    assert bound.bind([7])[1] == ((),)
    assert bound.bind([np.int64(7)])[1] == ((),)
    with pytest.raises(InputError):
        bound.bind([7.5])


LEAN = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        heavy = ("torch", "transformers", "triton", "scipy", "networkx", "sympy")
        ours = ("graph", "passes", "codegen", "frontends", "analysis")
        if name.split(".")[0] in heavy or name.startswith(tuple("ullage." + part for part in ours)):
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
import numpy as np
import ullage.artifact, ullage.plan.view
from ullage.runtime.load import load
dot, gathered = load(sys.argv[1]), load(sys.argv[2])
assert dot(np.ones(333, np.float32)).shape == (64,) and dot.plan.peak_bytes and dot.stats()
assert gathered(np.array([1, 2])).shape == (2, 50)
assert not any(name.split(".")[0] == "torch" for name in sys.modules)
"""


def test_artifacts_run_where_nothing_else_can_be_imported(tmp_path: Path) -> None:
    dot = write(tmp_path / "dot.ullage", resident_dot_plan(64, 333), [matrix(64, 333)])
    gathered = write(tmp_path / "g.ullage", gather_plan(100, 50, False, 8 * PAGE), [matrix(100, 50)])
    command = [sys.executable, "-c", LEAN, str(dot), str(gathered)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr
