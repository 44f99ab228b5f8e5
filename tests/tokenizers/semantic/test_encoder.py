"""Exact frames for every family, layers as hidden_states, neighbours that are not heard, one line for bad folders."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.inputs import receptive_field, wave_front_end
from triptych.tokenizers.waveform import Waveform

Sound = Callable[[int, int], Waveform]


def test_frames_are_exact(checkpoints: dict[str, Path], sound: Sound, kind: str) -> None:
    encoder = Encoder.load(checkpoints[kind], 2)
    generator = np.random.default_rng(0)
    lengths = [0, 1, encoder.hop - 1, encoder.hop, encoder.hop + 1, 2 * encoder.hop, *generator.integers(400, 9000, 5)]
    for length in lengths:
        (features,) = encoder.features([sound(int(length), 0)])
        assert features.shape == (length // encoder.hop, encoder.dim)
        assert features.isfinite().all()


def test_it_is_what_transformers_says_at_every_layer(checkpoints: dict[str, Path], sound: Sound, kind: str) -> None:
    waveform = sound(6400, 1)
    whole = AutoModel.from_pretrained(checkpoints[kind]).eval()
    plain = AutoFeatureExtractor.from_pretrained(checkpoints[kind])
    if kind == "wav2vec2-bert-":  # its frames are exact where the clip has silence on both sides
        given = plain(np.pad(waveform, 120), sampling_rate=16000, return_tensors="pt")["input_features"]
    elif kind == "whisper-":
        whole = whole.get_encoder()
        given = plain(waveform, sampling_rate=16000, return_tensors="pt")["input_features"]
    else:
        given = plain(waveform, sampling_rate=16000, return_tensors="pt")["input_values"]
        given = torch.nn.functional.pad(given, (40, 40))
    with torch.no_grad():
        states = whole(given, output_hidden_states=True).hidden_states
    for layer in range(4):
        encoder = Encoder.load(checkpoints[kind], layer)
        (found,) = encoder.features([waveform])
        expected = states[layer][0, : len(found)]
        if kind == "whisper-" and layer == 3:  # transformers has the last one behind the norm that follows
            found = whole.layer_norm(found).detach()
        assert torch.allclose(found, expected, atol=1e-4)


def test_batched_is_single(checkpoints: dict[str, Path], sound: Sound, kind: str) -> None:
    encoder = Encoder.load(checkpoints[kind], 3)
    waveforms = [sound(length, i) for i, length in enumerate([5000, 3210, 5000, 650, 300, 4999, 3510])]
    single = encoder.features(waveforms)
    encoder.batch_samples = 7 * 32000
    for one, other in zip(single, encoder.features(waveforms), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=2e-5)


def test_without_care_padding_would_be_heard(checkpoints: dict[str, Path], sound: Sound) -> None:
    """The batch that the test above passes on, past the two places that keep its padding silent."""
    for kind in ("wav2vec2-group", "data2vec-audio-"):
        encoder = Encoder.load(checkpoints[kind], 3)
        waveforms = [sound(9000, 0), sound(3000, 1)]
        single = encoder.features(waveforms)[1]
        encoder.batch_samples = 40000
        encoder._padding = type(encoder._padding)(torch.nn.Module(), encoder.front)  # one that no module asks
        assert not torch.allclose(single, encoder.features(waveforms)[1], atol=1e-3)


def test_padding_is_half_of_window_minus_hop() -> None:
    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    assert receptive_field(kernels, strides) == (400, 320)
    assert wave_front_end(kernels, strides, True).padding == 40
    with pytest.raises(ValueError, match="hop"):
        wave_front_end((10, 3), (5, 2), True)


def test_normalisation_is_read_from_the_folder(checkpoints: dict[str, Path], sound: Sound, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(checkpoints["wav2vec2-layer"], folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert Encoder.load(folder, 1).front.normalise
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert not Encoder.load(folder, 1).front.normalise


def test_saved_encoder_is_cut_and_equal(checkpoints: dict[str, Path], sound: Sound, kind: str, tmp_path: Path) -> None:
    encoder = Encoder.load(checkpoints[kind], 2)
    encoder.round()
    encoder.save(tmp_path / "cut")
    again = Encoder.load(tmp_path / "cut", 2)
    assert again.model.config.num_hidden_layers == 2
    assert again.front == encoder.front
    assert torch.equal(encoder.features([sound(4000, 0)])[0], again.features([sound(4000, 0)])[0])
    with pytest.raises(ValueError, match="layers 0 to 2"):
        Encoder.load(tmp_path / "cut", 3)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_run(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(checkpoints["hubert-layer"], folder)
    (folder / "model.safetensors").unlink()
    with open(folder / "pytorch_model.bin", "wb") as stream:
        pickle.dump({"weight": Bomb(tmp_path / "ran")}, stream)
    with pytest.raises(ValueError, match="not a speech encoder that can be read"):
        Encoder.load(folder, 1)
    torch.save({"weight": Bomb(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="not a speech encoder that can be read"):
        Encoder.load(folder, 1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("broken", ["empty", "no weights", "cut weights", "no front end", "another model", "own code"])
def test_bad_folders_are_refused_in_one_line(checkpoints: dict[str, Path], tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(checkpoints["wavlm-layer"], folder)
    if broken == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif broken == "no weights":
        (folder / "model.safetensors").unlink()
    elif broken == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    elif broken == "no front end":
        (folder / "preprocessor_config.json").unlink()
    else:
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "bert" if broken == "another model" else "unheard-of"
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "code.Config"}}))
        (folder / "code.py").write_text("raise SystemExit('code of the folder was run')")
    with pytest.raises(ValueError) as caught:
        Encoder.load(folder, 1)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "bad"
    shutil.copytree(checkpoints["wav2vec2-bert-"], folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layers.0" in name)
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="missing"):
        Encoder.load(folder, 1)


def test_names_that_are_no_folder_are_refused_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("socket.create_connection", reach)
    monkeypatch.setattr("triptych.tokenizers.hub.getproxies", dict)
    for name in ("missing-folder", "./owner/name", str(tmp_path / "none"), "a/b/c", tmp_path / "none"):
        with pytest.raises(ValueError, match="does not exist"):
            Encoder.load(name, 1)
    with pytest.raises(ValueError, match="hub cannot be reached"):
        Encoder.load("owner/encoder-that-nobody-has", 1)


def test_a_tilde_is_the_home_folder(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints["wavlm-layer"]
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Encoder.load(f"~/{folder.name}", 1).dim == Encoder.load(Path("~") / folder.name, 1).dim == 32
    with pytest.raises(ValueError, match=r"~no-such-user/here does not exist"):
        Encoder.load("~no-such-user/here", 1)
