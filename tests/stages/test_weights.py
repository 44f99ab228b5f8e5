"""Weights on disk: what is read is what was written, to the precision that was asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.stages.weights import read_weights, write_weights


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 20), columns=st.integers(1, 20), seed=st.integers(0, 100), spread=st.floats(1e-3, 10))
def test_int8_errs_by_half_a_step_of_its_row(tmp_path_factory, rows, columns, seed, spread):
    torch.manual_seed(seed)
    state = {"a.weight": torch.randn(rows, columns) * spread, "norm": torch.randn(columns), "count": torch.arange(3)}
    path = tmp_path_factory.mktemp("w") / "model.safetensors"
    write_weights(path, state, "int8")
    read = read_weights(path)
    assert read.keys() == state.keys() and torch.equal(read["count"], state["count"])
    step = state["a.weight"].abs().amax(1, keepdim=True) / 127
    assert ((read["a.weight"] - state["a.weight"]).abs() <= 0.501 * step).all()
    assert torch.allclose(read["norm"], state["norm"], rtol=1e-3, atol=1e-4)


def test_float32_is_exact_and_sizes_shrink(tmp_path):
    state = {"weight": torch.randn(64, 64)}
    sizes = []
    for precision in ("float32", "float16", "int8"):
        write_weights(tmp_path / precision, state, precision)
        sizes.append((tmp_path / precision).stat().st_size)
    assert torch.equal(read_weights(tmp_path / "float32")["weight"], state["weight"])
    assert sizes[0] > 1.9 * sizes[1] > 3.4 * sizes[2]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        read_weights(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is missing"):
        read_weights(tmp_path / "absent.safetensors")
