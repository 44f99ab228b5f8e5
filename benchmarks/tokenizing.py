"""`triptych tokenize` against the plain loop, alternating in one run on two cores.

    python benchmarks/tokenizing.py MANIFEST --tokenizers DIR [--clips 200] [--rounds 3]
    python benchmarks/tokenizing.py MANIFEST        without --tokenizers: nine layers of a WavLM base and EnCodec 24 kHz
                                                    at 6 kbit/s, of their published sizes, with random weights

    plain     read, resample, level, encode: one clip at a time, whole, through the same models of transformers, with
              all cores for each operation
    fp32      `triptych tokenize workers=2`; its tokens must be those of the plain loop with one thread, as a worker has
              it; how many change in the plain loop itself with all cores is said beside
    bf16      the same with tokenizers whose arithmetic is bf16; the share of tokens that change is said

Seconds of sound a second of work, medians over the rounds; start and loading of models are left out on both sides.
Nothing else may run: a busy machine is refused unless --busy says that figures do not matter.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from triptych.corpus.clips import part_of
from triptych.corpus.manifest import Recording, read_manifest, write_manifest
from triptych.corpus.shard_plan import Share
from triptych.corpus.shards import ShardConfig, ShardSet
from triptych.corpus.workers import tokenize
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.trio import Tokenizers
from triptych.tokenizers.waveform import load_prepared, prepare, read_audio

BUSY_LOAD = 0.5
WANTED = {"fp32": 1.2, "bf16": 1.7}
WANTED_WAIT = 0.05

Found = dict[str, tuple[np.ndarray, np.ndarray]]
"""id -> semantic [T], codes [Q, T']"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--busy", action="store_true", help="measure all the same; the figures mean nothing")
    said = parser.parse_args()
    if os.getloadavg()[0] > BUSY_LOAD and not said.busy:
        sys.exit(f"the machine is busy (load {os.getloadavg()[0]:.1f}): wait, or say --busy")
    os.environ.pop("OMP_NUM_THREADS", None)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: said.cores])
    torch.set_num_threads(said.cores)
    every = list(read_manifest(said.manifest))
    drawn = sorted(np.random.default_rng(0).permutation(len(every))[: said.clips])
    clips = [every[i] for i in drawn]
    with tempfile.TemporaryDirectory() as scratch:
        tokenizers = said.tokenizers or published_sizes(clips, Path(scratch) / "published")
        print(json.dumps(compare(clips, tokenizers, said.rounds, said.cores, Path(scratch)), indent=1))


def compare(clips: list[Recording], folder: Path, rounds: int, cores: int, scratch: Path) -> dict[str, Any]:
    manifest = scratch / "manifest.jsonl"
    write_manifest(manifest, clips)
    folders = {"fp32": folder, "bf16": in_bf16(folder, scratch / "bf16")}
    loaded = Tokenizers.load(folder)
    plain_loop(loaded, clips[:2], cores)  # first calls choose kernels
    speeds: dict[str, list[float]] = {"plain": [], "fp32": [], "bf16": []}
    waits: list[float] = []
    wanted = plain_loop(loaded, clips, 1)
    seconds = sum(codes.shape[1] for _, codes in wanted.values()) / float(loaded.grid.acoustic_rate)
    found: dict[str, Found] = {}
    for number in range(rounds):
        began = time.perf_counter()
        found["plain"] = plain_loop(loaded, clips, cores)
        speeds["plain"].append(seconds / (time.perf_counter() - began))
        for kind, tokenizers in folders.items():
            output = scratch / f"{kind}-{number}"
            config = ShardConfig(rows_per_shard=max(1, len(clips) // (4 * cores)), workers=cores, max_rejected=0.0)
            summary = tokenize(manifest, tokenizers, output, config, Share())
            speeds[kind].append(seconds / summary.longest)
            waits.append(summary.waited_share)
            found[kind] = read(output)
    medians = {kind: statistics.median(values) for kind, values in speeds.items()}
    identical = {kind: changed(wanted, found[kind]) for kind in ("plain", *folders)}
    ratios = {kind: medians[kind] / medians["plain"] for kind in folders}
    return {
        "clips": len(clips),
        "seconds": round(seconds, 1),
        "sound_seconds_a_second": {kind: [round(v, 1) for v in values] for kind, values in speeds.items()},
        "ratio_of_medians": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
        "waited_share": {"median": statistics.median(waits), "most": max(waits)},
        "changed_share": identical,
        "holds": {
            "fp32 speed": ratios["fp32"] >= WANTED["fp32"],
            "fp32 tokens": all(share == 0 for share in identical["fp32"].values()),
            "bf16 speed": ratios["bf16"] >= WANTED["bf16"],
            "waiting": max(waits) <= WANTED_WAIT,
        },
    }


def plain_loop(tokenizers: Tokenizers, clips: list[Recording], threads: int) -> Found:
    """What a person would write with transformers, soundfile, soxr and pyloudnorm."""
    torch.set_num_threads(threads)  # whatever was measured before
    found: Found = {}
    spec, grid = tokenizers.waveform, tokenizers.grid
    for clip in clips:
        part = part_of(clip)
        read_from, rate = read_audio(clip.path, *part[:3])
        waveform = prepare(read_from, rate * part.speed, spec)
        if tokenizers.text is not None and clip.text is not None:
            tokenizers.text.encode(clip.text)
        padded = np.pad(waveform, (0, grid.padded_samples(len(waveform), spec.sample_rate) - len(waveform)))
        semantic = tokenizers.semantic.encode([padded], spec.sample_rate)[0]
        with torch.inference_mode():
            codes = tokenizers.acoustic.codec.encode(torch.from_numpy(padded), tokenizers.acoustic.spec.levels)
        beats = round(len(padded) / (grid.beat * spec.sample_rate))
        found[clip.id] = (grid.on_beats(semantic, beats), codes.numpy().astype(np.uint16))
    return found


def published_sizes(clips: list[Recording], into: Path) -> Path:
    """Tokenizers as large as microsoft/wavlm-base-plus up to layer 9, with 500 ids, and facebook/encodec_24khz."""
    from transformers import EncodecConfig, EncodecModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    rate = EncodecConfig().sampling_rate
    encoder, spec = into / "encoder", WaveformSpec(rate)
    WavLMModel(WavLMConfig(num_hidden_layers=9)).save_pretrained(encoder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False).save_pretrained(encoder)
    loaded = Encoder.load(encoder, 9)
    heard = [load_prepared(clip.path, spec, part_of(clip)) for clip in clips[:20]]
    features = torch.cat(loaded.features([soxr.resample(waveform, rate, 16_000) for waveform in heard]))
    SemanticTokenizer(loaded, features[torch.randperm(len(features))[:500]], standardise=False).save(into / "semantic")
    codec = EncodecModel(EncodecConfig())
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    AcousticTokenizer(codec.half().float(), 8).save(into / "acoustic")
    (into / "waveform.json").write_text(json.dumps(vars(spec)))
    return into


def in_bf16(folder: Path, into: Path) -> Path:
    """The same tokenizers, computing in bf16."""
    loaded = Tokenizers.load(folder)
    if loaded.text is not None:
        loaded.text.save(into / "text")
    encoder = loaded.semantic.encoder
    encoder.dtype = "bf16"
    semantic = SemanticTokenizer(encoder, loaded.semantic.centroids, standardise=loaded.semantic.standardise)
    semantic.save(into / "semantic")
    acoustic = AcousticTokenizer(loaded.acoustic.model, loaded.acoustic.spec.levels, "bf16")
    acoustic.save(into / "acoustic")
    Tokenizers(loaded.text, semantic, acoustic, loaded.waveform)
    (into / "waveform.json").write_text(json.dumps(vars(loaded.waveform)))
    return into


def read(folder: Path) -> Found:
    shards = ShardSet.open(folder)
    return {shards.row(i).id: (shards.semantic(i), shards.codes(i)) for i in range(len(shards))}


def changed(plain: Found, ours: Found) -> dict[str, float]:
    """Share of tokens that differ; 1.0 where a clip is missing."""
    if plain.keys() != ours.keys():
        return {"semantic": 1.0, "codes": 1.0}
    shares: dict[str, float] = {}
    semantic = [(plain[key][0] != ours[key][0]) for key in plain]
    codes = [(plain[key][1] != ours[key][1]) for key in plain]
    shares["semantic"] = float(np.concatenate(semantic).mean())
    for level, changes in enumerate(np.concatenate(codes, axis=1)):
        shares[f"codes, level {level}"] = float(changes.mean())
    return shares


if __name__ == "__main__":
    main()
