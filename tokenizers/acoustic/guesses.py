"""Codes that a stage guessed for recordings, in the time of the recordings: what a decoder will be given, beside the
sound that it should have become, or should sound like.

    guesses.safetensors    codes uint16 [levels, all frames], offsets int64 [recordings + 1], in frames
                           shift float16 [D, all frames], where some levels are heard as the mean of their entries
                           metadata: format, the names of the recordings, the fingerprint of the codec, and whether
                           they were guessed after the stage's own past (`own_past`)

Written by `triptych guess`, read by `fit acoustic guesses=`. Knows no stage.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from triptych.tokenizers.hub import expanded
from triptych.training.files import atomic_file

FORMAT = "1"
Codes = NDArray[np.uint16]
Shift = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True)
class Guess:
    """Of one recording."""

    codes: Codes
    """[levels, T']"""
    shift: Shift | None = None
    """[D, T'], added to the latent of the codes"""

    def at(self, frames: NDArray[np.int64]) -> "Guess":
        """Of some of its frames."""
        return Guess(self.codes[:, frames], None if self.shift is None else self.shift[:, frames])


@dataclass(frozen=True)
class Guesses:
    """Read whole."""

    codes: Codes
    """[levels, all frames]"""
    spans: dict[str, tuple[int, int]]
    """name of a recording to its frames"""
    fingerprint: str
    """of the codec whose codes they are"""
    own_past: bool = False
    """they were guessed after the stage's own past: they say a recording's words, and are not to become its sound"""
    shift: Shift | None = None
    """[D, all frames], added to the latent of the codes"""

    @property
    def levels(self) -> int:
        return len(self.codes)

    def of(self, name: str) -> Guess | None:
        """Of a recording; None where it was not guessed."""
        begin, end = self.spans.get(name, (0, 0))
        if end <= begin:
            return None
        return Guess(self.codes[:, begin:end], None if self.shift is None else self.shift[:, begin:end])

    @classmethod
    def load(cls, path: Path) -> "Guesses":
        """
        Raises:
            ValueError: no such file, or another one; one line.
        """
        path = Path(expanded(path))
        try:
            with safe_open(path, "np") as file:
                said = file.metadata() or {}
                codes, offsets = file.get_tensor("codes"), file.get_tensor("offsets").tolist()
                shift = file.get_tensor("shift") if "shift" in file.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} holds no guesses ({error}): make some with 'triptych guess'") from None
        if said.get("format") != FORMAT:
            raise ValueError(f"{path} has no guesses of format {FORMAT}: make it anew with 'triptych guess'")
        names = json.loads(said["names"])
        spans = dict(zip(names, pairwise(offsets), strict=True))
        return cls(codes, spans, said["fingerprint"], said.get("own_past") == "true", shift)


def write_guesses(path: Path, guessed: Iterable[tuple[str, Guess]], fingerprint: str, own_past: bool = False) -> int:
    """Writes the guesses of recordings by name, all with a shift or none; returns how many frames.

    Raises:
        ValueError: there are none.
    """
    names, codes, shifts = [], [], []
    for name, found in guessed:
        names.append(name)
        codes.append(found.codes)
        if found.shift is not None:
            shifts.append(found.shift.astype(np.float16))
    if not names:
        raise ValueError("no recording of split train has a whole beat: there is nothing to guess")
    offsets = np.cumsum([0, *(x.shape[1] for x in codes)]).astype(np.int64)
    arrays: dict[str, NDArray[Any]] = {"codes": np.ascontiguousarray(np.concatenate(codes, axis=1)), "offsets": offsets}
    if shifts:
        arrays["shift"] = np.ascontiguousarray(np.concatenate(shifts, axis=1))
    with atomic_file(path) as beside:
        about = {"format": FORMAT, "names": json.dumps(names), "fingerprint": fingerprint}
        save_file(arrays, beside, about | {"own_past": str(own_past).lower()})
    return int(offsets[-1])
