"""Small checkpoints as their packages publish them, of weights that are a function of their names."""

import importlib.util
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from triptych.tokenizers.acoustic.codec import AcousticTokenizer

torch.set_num_threads(1)
ORIGINALS = Path(__file__).with_name("originals")


@pytest.fixture(scope="session")
def originals() -> Any:
    """The module originals/originals.py."""
    spec = importlib.util.spec_from_file_location("originals", ORIGINALS / "originals.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoints(originals: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """encodec: a .th file; dac, mimi: folders with config.json and model.safetensors."""
    home = tmp_path_factory.mktemp("published")
    names = json.loads((ORIGINALS / "names.json").read_text())
    torch.save(OrderedDict(originals.weights(names["encodec"])), home / "encodec_24khz-d7cc33bc.th")
    found = {"encodec": home / "encodec_24khz-d7cc33bc.th"}
    for family, config in (("dac", originals.DAC_CONFIG), ("mimi", originals.MIMI_CONFIG)):
        found[family] = home / family
        found[family].mkdir()
        (found[family] / "config.json").write_text(json.dumps(config))
        tensors = {name: tensor.contiguous() for name, tensor in originals.weights(names[family]).items()}
        save_file(tensors, found[family] / "model.safetensors", {"format": "pt"})
    return found


@pytest.fixture(scope="session", params=["encodec", "dac", "mimi"])
def codec(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> AcousticTokenizer:
    return AcousticTokenizer.load(checkpoints[request.param])
