"""The three stages in a row. Reads like the drawing:

    text ──front end──▶ text tokens
                            │  1 semantic        what is said, and how
                            ▼
                     semantic tokens [T]
                            │  2 coarse          who says it, and where       ◀── voice prompt
                            ▼
                     codes [coarse levels, T']
                            │  3 fine            the last detail of the sound ◀── voice prompt
                            ▼
                     codes [Q, T'] ──EnCodec──▶ waveform

Four jobs: speak a text, continue a recording, convert it into another voice, resynthesise it from any level down.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.stages.bundle import Voice, check_bundle, hear_voice, read_bundle, read_voices
from triptych.stages.request import Request, Settings, Utterance, cut
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.split import split_text
from triptych.stages.three import STAGES, load_stage
from triptych.tokenizers.spec import TimeGrid
from triptych.tokenizers.trio import Tokenizers
from triptych.training.config import build

__all__ = ["Cascade", "Settings", "Utterance"]

LONGEST_TEXT = 5_000
"""characters of one request"""
TAIL_SECONDS = 2.0
"""of a recording that is continued: heard as what was just said, not as a prompt"""


class Cascade:
    """Three trained stages and their tokenizers."""

    def __init__(
        self,
        tokenizers: Tokenizers,
        stages: Mapping[str, tuple[Any, Any]],
        voices: Mapping[str, Voice],
        settings: Settings,
    ) -> None:
        self.tokenizers, self.stages, self._voices, self.settings = tokenizers, dict(stages), dict(voices), settings
        self.grid: TimeGrid = tokenizers.grid
        self.sample_rate = tokenizers.acoustic.spec.sample_rate

    @classmethod
    def load(cls, path: Path | str | None = None, device: str = "cpu") -> "Cascade":
        """A bundle folder or hub id; None: the starter, the small cascade in the package.

        Raises:
            ValueError: no bundle there, or its parts do not belong together.
        """
        folder = find_bundle(path)
        record = read_bundle(folder)
        tokenizers = Tokenizers.load(folder / "tokenizers")
        stages = {name: load_stage(folder / "stages" / name, device) for name in STAGES}
        check_bundle(folder, tokenizers, {name: stage for name, (stage, _) in stages.items()})
        settings = build(Settings, record["settings"], f"settings of {folder}")
        return cls(tokenizers, stages, read_voices(folder), settings)

    def voices(self) -> dict[str, str]:
        """Named voices, and what each says in its prompt."""
        return {name: voice.text or "" for name, voice in self._voices.items()}

    def named_voice(self, name: str) -> Voice:
        """The tokens of a voice of `voices`."""
        return self._voices[name]

    def speak(
        self,
        text: str,
        *,
        voice: str | Path | Voice | None = None,
        voice_text: str | None = None,
        settings: Settings | None = None,
    ) -> Utterance:
        """Speaks `text`.

        Args:
            voice: a named voice, a recording of 0.5 to 30 s, or one that is tokenized; None: the first named voice.
            voice_text: what is said in that recording; it prompts the semantic stage too, where that was trained so.
        Raises:
            ValueError: a text that is empty, too long or cannot be spoken; a voice that cannot be heard.
        """
        job = Request(self, settings)
        pieces = self._text_pieces(text)
        spoken_by = self._voice(voice, voice_text, job)
        semantic = np.concatenate([job.semantic(piece, spoken_by) for piece in pieces])
        return job.utter(semantic, spoken_by, text=text)

    def continue_(self, prompt: Path, *, seconds: float = 5.0, settings: Settings | None = None) -> Utterance:
        """Goes on for `seconds` where a recording ends; the result begins with the recording.

        Raises:
            ValueError: a recording that cannot be heard, or `seconds` not between a beat and 60.
        """
        job = Request(self, settings)
        if not float(self.grid.beat) <= seconds <= 60:
            raise ValueError(f"seconds={seconds}: give {float(self.grid.beat)} to 60")
        heard = self._hear(prompt, job)
        new = job.freely(heard.semantic, self.grid.beats(seconds))
        given = cut(heard, self.grid.beats(TAIL_SECONDS + job.settings.prompt_seconds), self.grid, end=True)
        beats = len(given.semantic) // self.grid.semantic_per_beat
        tail = cut(given, min(self.grid.beats(TAIL_SECONDS), beats // 2), self.grid, end=True)
        voice = cut(given, beats - len(tail.semantic) // self.grid.semantic_per_beat, self.grid)
        return job.utter(np.concatenate([tail.semantic, new]), voice, before=heard, made=tail.codes)

    def convert(self, source: Path, *, voice: str | Path, settings: Settings | None = None) -> Utterance:
        """What `source` says, as it says it, in another voice. The semantic stage has no part in it.

        Raises:
            ValueError: a recording that cannot be heard.
        """
        job = Request(self, settings)
        said = self._hear(source, job)
        return job.utter(said.semantic, self._voice(voice, None, job))

    def resynthesise(
        self, source: Path, *, level: str, voice: str | Path | None = None, settings: Settings | None = None
    ) -> Utterance:
        """`source` with all below `level` made anew: "codes" (codec alone), "coarse" (fine stage), "semantic" (both).

        Args:
            voice: the prompt; None: the first seconds of the source itself.
        Raises:
            ValueError: a recording that cannot be heard, or no such level.
        """
        job = Request(self, settings)
        said = self._hear(source, job)
        prompt = said if voice is None else self._voice(voice, None, job)
        if level == "semantic":
            return job.utter(said.semantic, prompt)
        if level == "coarse":
            return job.utter(said.semantic, prompt, coarse=said.codes)
        if level == "codes":
            return job.decode(said.semantic, said.codes)
        raise ValueError(f"level '{level}': choose codes, coarse or semantic")

    def _text_pieces(self, text: str) -> list[NDArray[np.uint16]]:
        front_end = self.tokenizers.text
        if front_end is None:
            raise ValueError("this cascade has no text front end: it continues, converts and resynthesises")
        if not text.strip():
            raise ValueError("the text is empty: give something to say")
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"the text has {len(text)} characters: give at most {LONGEST_TEXT} at a time")
        stage = self.stages["semantic"][0]
        longest = stage.config.max_seconds * 0.6 * float(self.grid.semantic_rate)

        def too_long(tokens: NDArray[np.uint16]) -> bool:
            return bool(stage.expected_frames(len(tokens)) > longest)

        return split_text(text, front_end.encode, too_long)

    def _voice(self, voice: str | Path | Voice | None, text: str | None, job: "Request") -> Voice:
        if isinstance(voice, Voice):
            return voice
        if voice is None:
            empty = np.zeros((self.tokenizers.acoustic.spec.levels, 0), np.uint16)
            return next(iter(self._voices.values()), Voice(NOTHING, empty, None))
        if str(voice) in self._voices:
            return self._voices[str(voice)]
        if not Path(voice).exists():
            known = ", ".join(self._voices) or "none"
            raise ValueError(f"voice '{voice}' is neither a recording nor a named voice (named: {known})")
        with job.clock("tokenizers"):
            return hear_voice(self.tokenizers, Path(voice), text)

    def _hear(self, path: Path, job: "Request") -> Voice:
        with job.clock("tokenizers"):
            tokens = self.tokenizers.tokens(self.tokenizers.prepare_file(path))
            return Voice(tokens.semantic, tokens.codes, None)


def find_bundle(path: Path | str | None) -> Path:
    """The folder that a bundle's folder or hub id means; None: the starter.

    Raises:
        ValueError: there is none.
    """
    if path is None:
        starter = Path(str(files("triptych") / "starter"))
        if not (starter / "bundle.json").exists():
            raise ValueError("this installation carries no starter cascade: name a bundle with --bundle")
        return starter
    if Path(path).is_dir():
        return Path(path)
    if str(path).count("/") != 1 or str(path).startswith((".", "/")):
        raise ValueError(f"{path}: no such folder, and no hub id of the form owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{path}: no such folder, and the hub did not give it: {str(error).splitlines()[0]}") from None
