"""The three tokenizers and the one preparation that stands before them.

    tokenizers/
      waveform.json      how every recording and every voice prompt is prepared; missing: the defaults of WaveformSpec
      text/              may be missing: a cascade without text continues, converts and resynthesises
      semantic/
      acoustic/

    talk.mp3 ──prepare──▶ [N] ──pad to whole beats, once──▶ semantic [T], codes [Q, T'];  T : T' is exact
                                                            (by the nearest frame, where the rates hardly meet)

Knows no manifest and no language model.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.spec import TimeGrid, TokenizerSpec, WaveformSpec
from triptych.tokenizers.waveform import WHOLE, Part, Waveform, load_prepared, prepare
from triptych.training.config import build
from triptych.training.files import read_json, write_json

if TYPE_CHECKING:
    from triptych.tokenizers.acoustic.codec import AcousticTokenizer
    from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
    from triptych.tokenizers.text.frontend import TextTokenizer

WAVEFORM_FILE = "waveform.json"


@dataclass(frozen=True)
class Prepared:
    """A recording as the tokenizers hear it."""

    padded: Waveform
    """[N'], at the rate of the acoustic tokenizer, with zeros up to whole beats"""
    samples: int
    """N, before the padding"""
    name: str
    """for messages"""

    @property
    def waveform(self) -> Waveform:
        """[N], without the padding."""
        return self.padded[: self.samples]


@dataclass(frozen=True)
class Tokens:
    """One recording, tokenized; both grids cover the same whole number of beats."""

    semantic: NDArray[np.uint16]
    """[T]"""
    codes: NDArray[np.uint16]
    """[Q, T']"""
    samples: int
    """true length, before the padding"""


@dataclass(frozen=True)
class Tokenizers:
    """What turns text and waveforms into tokens, and codes back into a waveform.

    Raises:
        ValueError: preparation and codec differ in rate, or the codec's frames are longer than a beat may be.
    """

    text: "TextTokenizer | None"
    semantic: "SemanticTokenizer"
    acoustic: "AcousticTokenizer"
    waveform: WaveformSpec

    def __post_init__(self) -> None:
        if self.waveform.sample_rate != self.acoustic.spec.sample_rate:
            raise ValueError(
                f"waveforms are prepared at {self.waveform.sample_rate} Hz, but the codec takes "
                f"{self.acoustic.spec.sample_rate} Hz: give both the same sample_rate"
            )
        _ = self.grid

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", batch_seconds: float = 0.0) -> "Tokenizers":
        """Loads the folder drawn above.

        Args:
            device: of the encoder and the codec; a codec elsewhere than on the CPU only encodes.
            batch_seconds: see `SemanticTokenizer.load`.
        Raises:
            ValueError: a part is missing or damaged; names it.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder of tokenizers (with semantic/, acoustic/ and text/)")
        for part in ("semantic", "acoustic"):
            if not (folder / part).is_dir():
                raise ValueError(f"{folder} has no {part} tokenizer: fit one into {folder / part}")
        from triptych.tokenizers.acoustic.codec import AcousticTokenizer
        from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
        from triptych.tokenizers.text.frontend import load_text

        acoustic = AcousticTokenizer.load(folder / "acoustic")
        acoustic.model.to(device)
        return cls(
            text=load_text(folder / "text") if (folder / "text").is_dir() else None,
            semantic=SemanticTokenizer.load(folder / "semantic", device=device, batch_seconds=batch_seconds),
            acoustic=acoustic,
            waveform=read_waveform_spec(folder, acoustic.spec.sample_rate),
        )

    def save(self, folder: Path) -> None:
        """Writes all parts into `folder`; waveform.json last."""
        for part, tokenizer in (("text", self.text), ("semantic", self.semantic), ("acoustic", self.acoustic)):
            if tokenizer is not None:
                tokenizer.save(folder / part)
        write_waveform_spec(folder, self.waveform)

    @property
    def grid(self) -> TimeGrid:
        return TimeGrid.of(self.semantic.spec, self.acoustic.spec)

    @property
    def specs(self) -> dict[str, TokenizerSpec]:
        """By kind; no `text` where there is none."""
        parts = (self.text, self.semantic, self.acoustic)
        return {part.spec.kind: part.spec for part in parts if part is not None}

    def wake(self) -> None:
        """Reads what the first recording would have to wait for, a second: the lexicon, the filters of loudness."""
        beats = 10 * int(self.grid.beat * self.waveform.sample_rate)
        self.prepare(np.random.default_rng(0).standard_normal(beats, dtype=np.float32), self.waveform.sample_rate)
        if self.text is not None:
            with suppress(ValueError):  # a language without this letter
                self.text.encode("a")

    def prepare(self, waveform: Waveform, sample_rate: int, name: str = "the recording") -> Prepared:
        """Prepares a mono waveform [N] of any rate.

        Raises:
            ValueError: too short, too long for the codec, or silent throughout.
        """
        return self._on_beats(prepare(waveform, sample_rate, self.waveform, name), name)

    def prepare_file(self, path: Path, part: Part = WHOLE) -> Prepared:
        """Reads and prepares an audio file, or a part of it.

        Raises:
            ValueError: what `read_audio` and `prepare` refuse; names the file.
        """
        return self._on_beats(load_prepared(path, self.waveform, part), str(path))

    def _on_beats(self, waveform: Waveform, name: str) -> Prepared:
        samples, rate, beat = len(waveform), self.waveform.sample_rate, self.grid.beat
        if samples < beat * rate:
            raise ValueError(f"{name}: {samples / rate:.3f} s is too short; give at least a beat ({float(beat)} s)")
        whole = self.grid.padded_samples(samples, rate)
        self.acoustic.check_length(whole / rate, name)
        missing = whole - samples
        return Prepared(np.pad(waveform, (0, missing)) if missing else waveform, samples, name)

    def tokens(self, prepared: Prepared) -> Tokens:
        """Semantic tokens and codes on the same beats."""
        return self.tokens_of([prepared])[0]

    def tokens_of(self, batch: Sequence[Prepared], codes: Sequence[NDArray[np.uint16]] | None = None) -> list[Tokens]:
        """`tokens` of each, worked out together; best of similar lengths.

        Args:
            codes: [Q, T'] of each, where they are known already; encoded anew where one is of another length.
        """
        grid, rate = self.grid, self.waveform.sample_rate
        padded = [prepared.padded for prepared in batch]
        beats = [round(len(waveform) / (grid.beat * rate)) for waveform in padded]
        shapes = [(self.acoustic.spec.levels, count * grid.acoustic_per_beat) for count in beats]
        if codes is None or [ids.shape for ids in codes] != shapes:
            codes = self.acoustic.encode_batch(padded, rate)
        assert [ids.shape for ids in codes] == shapes, ([ids.shape for ids in codes], shapes)
        found = []
        for prepared, count, semantic, ids in zip(batch, beats, self.semantic.encode(padded, rate), codes, strict=True):
            on_beats = grid.on_beats(semantic, count)
            found.append(Tokens(on_beats.astype(np.uint16), ids.astype(np.uint16), prepared.samples))
        return found


def read_waveform_spec(folder: Path, sample_rate: int) -> WaveformSpec:
    """waveform.json of a folder of tokenizers; where there is none, the defaults at `sample_rate`.

    Raises:
        ValueError: it cannot be read, or has an unknown key; names it.
    """
    path = folder / WAVEFORM_FILE
    said = read_json(path) if path.exists() else {"sample_rate": sample_rate}
    return build(WaveformSpec, said, where=str(path))


def write_waveform_spec(folder: Path, spec: WaveformSpec) -> None:
    """Writes waveform.json into a folder of tokenizers."""
    write_json(folder / WAVEFORM_FILE, asdict(spec))


def verify_tokenizer(folder: Path) -> None:
    """Loads one of the three, whichever it is.

    Raises:
        ValueError: something of it is missing or damaged.
    """
    from triptych.tokenizers.acoustic.codec import AcousticTokenizer
    from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
    from triptych.tokenizers.text.frontend import load_text

    record = read_json(folder / "tokenizer.json")
    if record.get("kind") == "semantic":
        SemanticTokenizer.load(folder)
    elif "levels" in record:
        AcousticTokenizer.load(folder)
    else:
        load_text(folder)
