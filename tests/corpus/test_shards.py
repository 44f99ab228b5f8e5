"""Token shards: what was tokenized is read back; broken, foreign or unfinished folders are refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from triptych.corpus.manifest import Recording, write_manifest
from triptych.corpus.shard_set import OPEN_SHARDS
from triptych.corpus.shards import ShardConfig, ShardSet, verify, write_shards
from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.trio import Tokenizers

SMALL = ShardConfig(rows_per_shard=3, batch_seconds=1.0, max_rejected=1.0)


def with_specs(tokenizers: Tokenizers, **changes: Any) -> dict[str, TokenizerSpec]:
    return {kind: dataclasses.replace(spec, **changes) for kind, spec in tokenizers.specs.items()}


def test_what_was_tokenized_is_read(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    seen: list[tuple[int, int]] = []
    summary = write_shards(manifest, tokenizers, tmp_path / "t", SMALL, lambda *done: seen.append(done))
    assert (summary.rows, summary.rejected, summary.complete) == (8, 0, True)
    assert seen[-1] == (8, 8)
    shards = ShardSet.open(tmp_path / "t", tokenizers.specs, tokenizers.waveform)
    assert verify(tmp_path / "t") == len(shards) == 8
    assert shards.grid == tokenizers.grid
    for i, r in enumerate(recordings):
        tokens = tokenizers.tokens(tokenizers.prepare_file(r.path))
        np.testing.assert_array_equal(shards.semantic(i), tokens.semantic)
        np.testing.assert_array_equal(shards.codes(i), tokens.codes)
        assert (
            shards.codes(i).shape[1] * shards.grid.semantic_per_beat
            == len(tokens.semantic) * shards.grid.acoustic_per_beat
        )
        row = shards.row(i)
        assert (row.id, row.text, row.speaker, row.split, row.samples) == (
            r.id,
            r.text,
            r.speaker,
            r.split,
            tokens.samples,
        )
        assert bytes(shards.text(i).astype(np.uint8)).decode() == (r.text or "").lower()
    assert list(shards.indices("train")) == [0, 1, 4, 5]
    assert [len(shards.semantic(i)) for i in range(8)] == list(shards.lengths("semantic"))
    assert [shards.codes(i).shape[1] for i in range(8)] == list(shards.lengths("codes"))


def test_tokens_lie_in_the_file_and_cannot_be_changed(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    codes = ShardSet.open(tmp_path / "t").codes(3)
    assert not codes.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        codes[0, 0] = 1


def test_another_reader_of_safetensors_agrees(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    from safetensors.numpy import load_file

    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    flat = load_file(tmp_path / "t" / "shard-00001.safetensors")
    shards = ShardSet.open(tmp_path / "t")
    np.testing.assert_array_equal(flat["semantic"], np.concatenate([shards.semantic(i) for i in (3, 4, 5)]))
    assert flat["codes"].dtype == flat["text"].dtype == np.uint16


def test_rows_that_fail_are_listed(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    recordings[4] = dataclasses.replace(recordings[4], text="Привет")
    write_manifest(manifest, recordings)
    recordings[0].path.write_text("no audio")
    recordings[5].path.unlink()
    summary = write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    assert (summary.rows, summary.rejected) == (5, 3)
    listed = [json.loads(line) for line in (tmp_path / "t" / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in listed] == [recordings[i].id for i in (0, 4, 5)]
    assert all(row["reason"] for row in listed)
    assert [ShardSet.open(tmp_path / "t").row(i).id[-1] for i in range(5)] == ["1", "2", "3", "6", "7"]
    assert sorted(p.name for p in (tmp_path / "t").iterdir() if "rejected" in p.name) == ["rejected.jsonl"]


def test_no_usable_row_is_an_error(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    for r in recordings:
        r.path.write_text("no audio")
    with pytest.raises(ValueError, match=r"none of 8 recordings could be tokenized, the first: .*not an audio file"):
        write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    manifest.write_text("\n")
    with pytest.raises(ValueError, match="no recordings to tokenize"):
        write_shards(manifest, tokenizers, tmp_path / "u", SMALL)


def test_lines_that_are_no_recording_are_listed(tmp_path: Path, manifest: Path, tokenizers: Tokenizers) -> None:
    lines = manifest.read_text().splitlines()
    lines[4] = lines[4].replace('"duration"', '"length"')
    lines[6] = "not json"
    manifest.write_text("\n\n".join(lines))
    summary = write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    assert (summary.rows, summary.rejected, verify(tmp_path / "t")) == (6, 2, 6)
    listed = [json.loads(line) for line in (tmp_path / "t" / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in listed] == ["line 9", "line 13"]
    manifest.write_text('{"audio": "a.wav"}\n')
    with pytest.raises(ValueError, match=r"line 1: not a manifest line.*triptych prepare"):
        write_shards(manifest, tokenizers, tmp_path / "u", SMALL)


def test_too_many_rejected_stop_the_run_until_more_are_allowed(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    recordings[1].path.write_text("no audio")
    strict = dataclasses.replace(SMALL, max_rejected=0.2)
    with pytest.raises(ValueError, match=r"1 of 3 recordings could not.*max_rejected=0\.2.*take\[/b\] 1: .*not an"):
        write_shards(manifest, tokenizers, tmp_path / "t", strict)
    assert not (tmp_path / "t" / "shards.json").exists()
    assert write_shards(manifest, tokenizers, tmp_path / "t", SMALL).rejected == 1


def test_what_was_mended_is_read_by_the_same_command(
    tmp_path: Path, manifest: Path, recordings: list[Recording], one_pair: Tokenizers
) -> None:
    whole = recordings[4].path.read_bytes()
    recordings[4].path.write_text("no audio")
    strict = dataclasses.replace(SMALL, max_rejected=0.1)
    with pytest.raises(ValueError, match="mend them and give the same command, or say max_rejected"):
        write_shards(manifest, one_pair, tmp_path / "t", strict)
    recordings[4].path.write_bytes(whole)
    assert write_shards(manifest, one_pair, tmp_path / "t", strict).rows == 8


def test_shards_that_hold_too_many_rejects_are_named(
    tmp_path: Path, manifest: Path, recordings: list[Recording], one_pair: Tokenizers
) -> None:
    whole = recordings[4].path.read_bytes()
    recordings[4].path.write_text("no audio")
    write_shards(manifest, one_pair, tmp_path / "t", SMALL)
    strict = dataclasses.replace(SMALL, max_rejected=0.1)
    with pytest.raises(ValueError, match=r"mend them, remove shard-00001\.json from .* and give the same command"):
        write_shards(manifest, one_pair, tmp_path / "t", strict)
    recordings[4].path.write_bytes(whole)
    (tmp_path / "t" / "shard-00001.json").unlink()
    assert write_shards(manifest, one_pair, tmp_path / "t", strict).rows == verify(tmp_path / "t") == 8


def test_other_tokenizers_are_refused_with_both_fingerprints(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    with pytest.raises(ValueError, match=r"letters-1.*not with.*other.*tokenize again"):
        ShardSet.open(tmp_path / "t", with_specs(tokenizers, fingerprint="other"))
    with pytest.raises(ValueError, match="prepared with"):
        ShardSet.open(tmp_path / "t", waveform=WaveformSpec(24000, None, None))


def test_without_text_tokenizer_there_is_no_text(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    write_shards(manifest, dataclasses.replace(tokenizers, text=None), tmp_path / "t", SMALL)
    shards = ShardSet.open(tmp_path / "t")
    assert set(shards.specs) == {"semantic", "acoustic"}
    assert list(shards.lengths("text")) == [0] * 8
    assert shards.row(1).text == "Text 1"
    with pytest.raises(ValueError, match="tokenized without text"):
        ShardSet.open(tmp_path / "t", tokenizers.specs)


def test_damage_is_found(tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers) -> None:
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    path = tmp_path / "t" / "shard-00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is missing or damaged"):
        verify(tmp_path / "t")
    path.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is missing or cut short"):
        ShardSet.open(tmp_path / "t")
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is missing"):
        ShardSet.open(tmp_path / "t")
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is damaged"):
        ShardSet.open(tmp_path / "t")


def test_another_format_is_refused(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    record = json.loads((tmp_path / "t" / "shards.json").read_text())
    (tmp_path / "t" / "shards.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        ShardSet.open(tmp_path / "t")
    with pytest.raises(ValueError, match="does not exist"):
        ShardSet.open(tmp_path / "absent")


def test_a_shard_of_rejected_rows_alone(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    for r in recordings[3:6]:
        r.path.unlink()
    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    assert verify(tmp_path / "t") == 5


def test_more_shards_than_files_may_be_open(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    import resource

    many = manifest.with_name("many.jsonl")
    write_manifest(many, [dataclasses.replace(recordings[0], id=f"r{i}") for i in range(200)])
    write_shards(many, tokenizers, tmp_path / "t", dataclasses.replace(SMALL, rows_per_shard=1))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 2 * OPEN_SHARDS + 20, before[1]))
    try:
        shards = ShardSet.open(tmp_path / "t")
        assert [shards.row(i).id for i in range(200)] == [f"r{i}" for i in range(200)]
        assert {len(shards.semantic(i)) for i in range(200)} == {len(shards.semantic(0))}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_row_costs_few_bytes_of_memory(
    tmp_path: Path, manifest: Path, recordings: list[Recording], tokenizers: Tokenizers
) -> None:
    import tracemalloc

    write_shards(manifest, tokenizers, tmp_path / "t", SMALL)
    rows, line = 20_000, (tmp_path / "t" / "shard-00000.jsonl").read_text().splitlines()[0]
    arrays = {f"{kind}_offsets": np.arange(rows + 1) for kind in ("text", "semantic", "codes")}
    levels = tokenizers.specs["acoustic"].levels
    arrays |= {
        kind: np.zeros(rows * (levels if kind == "codes" else 1), np.uint16) for kind in ("text", "semantic", "codes")
    }
    save_file(arrays, tmp_path / "t" / "shard-00000.safetensors")
    (tmp_path / "t" / "shard-00000.jsonl").write_text((line + "\n") * rows)
    record = json.loads((tmp_path / "t" / "shards.json").read_text()) | {"files": {}}
    (tmp_path / "t" / "shards.json").write_text(json.dumps(record))
    tracemalloc.start()
    shards = ShardSet.open(tmp_path / "t")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shards) > rows and held < 30 * rows
