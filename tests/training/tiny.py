"""Shards of a few noisy clips, made without a trained tokenizer; `python tiny.py FOLDER` writes them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import soundfile

from triptych.corpus.manifest import Recording, write_manifest
from triptych.corpus.shards import ShardConfig, write_shards


def tiny_shards(folder: Path, clips: int = 24) -> Path:
    """`clips` recordings of split train and six of split dev, 0.6 to 1.6 s long, of three speakers."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    recordings = []
    for i in range(clips + 6):
        seconds = 0.6 + 0.04 * (i % 25)
        loud = np.repeat(rng.uniform(0.0, 0.9, int(seconds * 25) + 1), 960)[: int(seconds * 24_000)]
        path = folder / "audio" / f"{i}.wav"
        soundfile.write(path, loud * np.sign(rng.standard_normal(len(loud))) * 0.5, 24_000)
        split = "train" if i < clips else "dev"
        recordings.append(Recording(f"clip {i}", path, len(loud) / 24_000, f"Text {i % 7}", f"s{i % 3}", split))
    write_manifest(folder / "manifest.jsonl", recordings)
    write_shards(folder / "manifest.jsonl", stand_ins()(25, 480), folder / "shards", ShardConfig())
    return folder / "shards"


def stand_ins():  # type: ignore[no-untyped-def]
    """The stand-in tokenizers of the corpus's own tests."""
    path = Path(__file__).parents[1] / "corpus" / "conftest.py"
    spec = importlib.util.spec_from_file_location("corpus_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.stand_ins


if __name__ == "__main__":
    print(tiny_shards(Path(sys.argv[1])))
