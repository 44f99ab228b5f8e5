"""Which tier of the engine a machine gets: its compiler, its processor, and the layers themselves decide."""

import copy
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from triptych.lm import native
from triptych.lm.blocks import PRECISIONS
from triptych.lm.engine import PackedLinear, make_engine
from triptych.lm.transformer import Transformer, TransformerConfig

torch.set_num_threads(1)
MODEL = Transformer(TransformerConfig(dim=32, layers=2, heads=2)).eval()
needs_native = pytest.mark.skipif(native.library() is None, reason="no C++ compiler here")


def test_without_a_compiler_another_tier_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_NATIVE", "0")
    for precision in PRECISIONS:
        assert make_engine(MODEL, precision, 10**9).tier == "prepacked"
    with pytest.raises(ValueError, match="fp16"):
        make_engine(MODEL, "fp16")  # type: ignore[arg-type]


@needs_native
@pytest.mark.parametrize("fault", ["a home of somebody else's", "no home", "a compiler that is no program"])
def test_where_the_library_cannot_be_had_another_tier_serves_too(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if fault == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: exec("raise RuntimeError"))
    elif fault == "a compiler that is no program":
        broken = tmp_path / "c++"
        broken.write_bytes(b"\x7fELF")
        broken.chmod(0o700)
        monkeypatch.setattr(native, "_compilers", lambda: [str(broken)])
    else:
        monkeypatch.setattr(Path, "exists", lambda path: exec("raise PermissionError"))
    native._path.cache_clear()
    try:
        assert make_engine(MODEL).tier == "prepacked"
    finally:
        native._path.cache_clear()


@needs_native
def test_a_compiler_that_makes_nothing_of_use_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    useless = tmp_path / "c++"
    useless.write_text("#!/bin/sh\nexit 1\n")
    useless.chmod(0o700)
    monkeypatch.setenv("CXX", str(useless))
    assert native._compilers()[0] == str(useless)
    assert make_engine(MODEL).tier == "native"


class Adapted(torch.nn.Module):
    """Stands for a layer as peft wraps it: `weight` is that of the layer alone."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.layer(x) + 1
        return adapted


def test_layers_with_adapters_are_computed_with_them() -> None:
    transformer = copy.deepcopy(MODEL)
    transformer.layers[0].out = Adapted(transformer.layers[0].out)  # type: ignore[union-attr, arg-type]
    x, positions = torch.randn(3, 32), torch.arange(3.0)
    with torch.inference_mode():
        engine = make_engine(transformer)
        found = engine.read(x, positions, [engine.cache(3)] * 3)
        torch.testing.assert_close(found, transformer(x[None])[0], atol=1e-4, rtol=1e-4)


@needs_native
def test_a_broken_weight_is_seen_in_whole_numbers_too() -> None:
    model = copy.deepcopy(MODEL)
    model.layers[0].mlp_norm.weight.data[3] = torch.nan  # type: ignore[union-attr]
    engine = make_engine(model, "int8")
    with torch.inference_mode():
        assert engine.read(torch.randn(1, 32), torch.zeros(1), [engine.cache(1)]).isnan().any()


def test_a_processor_without_bf16_computes_with_weights_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    layer, x = torch.nn.Linear(48, 32, bias=False), torch.randn(3, 48)
    made = PackedLinear(layer.weight, "bf16")(x)
    torch.testing.assert_close(made, x @ layer.weight.bfloat16().float().T)


@needs_native
def test_the_library_is_built_once_however_many_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda line, **rest: lines.append(line) or run(line, **rest))
    native._path.cache_clear()
    try:
        for _ in range(3):
            native.begin()
        assert make_engine(MODEL).tier == "native"
    finally:
        for thread in threading.enumerate():
            if thread.name == native.BUILDER:
                thread.join()
        native._path.cache_clear()
    assert len([line for line in lines if "-c" in line]) == 1
    assert [path.suffix for path in (tmp_path / "triptych").iterdir()] == [".so"]


def test_alibi_stays_plain_and_is_told_when_fewer_bits_are_asked() -> None:
    transformer = Transformer(TransformerConfig(dim=32, layers=1, heads=2, alibi=True)).eval()
    assert make_engine(transformer).tier == "plain"
    with pytest.raises(ValueError, match="precision=int8"):
        make_engine(transformer, "int8")
