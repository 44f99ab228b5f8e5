"""Codes of shards that are there already are taken over, where they are those of the same codec and recordings."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.corpus.manifest import Recording, write_manifest
from triptych.corpus.shards import ShardConfig, ShardSet, write_shards
from triptych.tokenizers.trio import Tokenizers

SMALL = ShardConfig(rows_per_shard=3, batch_seconds=1.0, max_rejected=1.0)


class OtherSemantic:
    """Every id mirrored: what another fit might say, at the rate of the first."""

    def __init__(self, semantic: Any) -> None:
        self.semantic, self.spec = semantic, dataclasses.replace(semantic.spec, fingerprint="semantic-2")

    def encode(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        return [63 - ids for ids in self.semantic.encode(waveforms, sample_rate)]


class Counted:
    """A codec that remembers how many clips it was given."""

    def __init__(self, codec: Any) -> None:
        self.codec, self.spec, self.clips = codec, codec.spec, 0
        self.check_length = codec.check_length

    def encode_batch(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        self.clips += len(waveforms)
        return self.codec.encode_batch(waveforms, sample_rate)


def test_codes_are_taken_from_shards_of_the_same_codec(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    recordings[4] = dataclasses.replace(recordings[4], text="Привет")  # rejected, so its codes are not there
    write_manifest(manifest, recordings)
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    codec = Counted(tokenizers.acoustic)
    others: Any = {"text": None, "semantic": OtherSemantic(tokenizers.semantic), "acoustic": codec}
    others = dataclasses.replace(tokenizers, **others)
    write_shards(manifest, others, tmp_path / "anew", SMALL)
    assert codec.clips == 8
    write_shards(manifest, others, tmp_path / "u", dataclasses.replace(SMALL, codes_from=str(tmp_path / "t")))
    assert 8 < codec.clips < 16  # those encoded with the one that was missing
    names = sorted(path.name for path in (tmp_path / "anew").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "u").iterdir())
    assert all((tmp_path / "anew" / name).read_bytes() == (tmp_path / "u" / name).read_bytes() for name in names)


def test_codes_of_a_damaged_shard_are_not_taken(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    path = tmp_path / "t" / "shard-00001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"shard-00001.safetensors is missing or damaged: copy the folder again"):
        write_shards(manifest, tokenizers, tmp_path / "u", dataclasses.replace(SMALL, codes_from=str(tmp_path / "t")))


def test_a_recording_that_became_another_is_encoded_anew(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    sound, rate = soundfile.read(recordings[2].path)
    soundfile.write(recordings[2].path, np.concatenate([sound, sound]), rate)
    write_shards(manifest, tokenizers, tmp_path / "u", dataclasses.replace(SMALL, codes_from=str(tmp_path / "t")))
    before, after = (ShardSet.open(tmp_path / name).codes(2) for name in "tu")
    assert after.shape[1] > before.shape[1]


def test_recordings_of_one_name_have_codes_of_their_own(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    recordings[1] = dataclasses.replace(recordings[1], id=recordings[0].id)
    write_manifest(manifest, recordings)
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    write_shards(manifest, tokenizers, tmp_path / "u", dataclasses.replace(SMALL, codes_from=str(tmp_path / "t")))
    name = "shard-00000.safetensors"
    assert (tmp_path / "t" / name).read_bytes() == (tmp_path / "u" / name).read_bytes()


def test_codes_of_other_shards_are_refused(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    taken = dataclasses.replace(SMALL, codes_from=str(tmp_path / "t"))
    with pytest.raises(ValueError, match="does not exist"):
        write_shards(manifest, tokenizers, tmp_path / "u", taken)
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    with pytest.raises(ValueError, match=r"codes_from: .*batch_seconds 1\.0, not 2\.0: give the same"):
        write_shards(manifest, tokenizers, tmp_path / "u", dataclasses.replace(taken, batch_seconds=2.0))

    def changed(part: str, **changes: Any) -> Tokenizers:
        one: Any = copy.copy(getattr(tokenizers, part))
        one.spec = dataclasses.replace(one.spec, **changes)
        return dataclasses.replace(tokenizers, **{part: one})

    with pytest.raises(ValueError, match=r"codes_from: .*acoustic-1, not with loud acoustic-2"):
        write_shards(manifest, changed("acoustic", fingerprint="acoustic-2"), tmp_path / "u", taken)
    rate = tokenizers.semantic.spec.hop // 2
    with pytest.raises(ValueError, match=r"codes_from: .*semantic tokens a second.*leave codes_from out"):
        write_shards(manifest, changed("semantic", hop=rate, fingerprint="semantic-2"), tmp_path / "u", taken)
    write_manifest(manifest, recordings[1:])
    with pytest.raises(ValueError, match=r"codes_from: .* was made with manifest"):
        write_shards(manifest, tokenizers, tmp_path / "u", taken)
    (tmp_path / "t" / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"codes_from: .* has no plan.json.*leave codes_from out"):
        write_shards(manifest, tokenizers, tmp_path / "u", taken)
    (tmp_path / "t" / "shards.json").unlink()
    with pytest.raises(ValueError, match="not a complete folder"):
        write_shards(manifest, tokenizers, tmp_path / "u", taken)
    assert not (tmp_path / "u").exists()
