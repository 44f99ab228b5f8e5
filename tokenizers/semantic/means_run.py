"""Where a fit of centroids stands, on disk, so that one that was killed goes on.

    semantic.run/
      means-000312.safetensors   centroids, counts, frames since each was last used, after 312 clips
      state.json                 generator, steps, inertia so far; names the file above and its digest

Invariant: state.json is replaced at once and last, so that it always names a whole file. Knows no clips.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from triptych.tokenizers.semantic.means import Step, StreamMeans
from triptych.training.files import atomic_file, file_digest, read_json, refuse_existing, write_json

FORMAT = 1
STATE_FILE = "state.json"


@dataclass(frozen=True)
class Position:
    """How far a fit is."""

    clips: int = 0
    """heard so far, over all passes"""
    revived: int = 0
    """dead centroids that were moved"""
    inertia: tuple[tuple[float, int], ...] = ()
    """of each pass: sum over its buffers, and their number"""

    def after(self, clips: int, turn: int, step: Step | None) -> "Position":
        """`clips` later, in pass `turn`; without a step where none of them had a frame."""
        if step is None:
            return replace(self, clips=self.clips + clips)
        passes = [*self.inertia, *[(0.0, 0)] * (turn + 1 - len(self.inertia))]
        total, buffers = passes[turn]
        passes[turn] = (total + step.inertia, buffers + 1)
        return replace(self, clips=self.clips + clips, revived=self.revived + step.revived, inertia=tuple(passes))


class MeansRun:
    """The folder drawn above, for one fit."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """`fingerprint`: of all that decides where the fit leads."""
        self.folder, self.fingerprint = folder, fingerprint

    def begin(self) -> Position:
        """
        Raises:
            ValueError: a run that was stopped lies there.
        """
        if (self.folder / STATE_FILE).exists():
            raise ValueError(f"{self.folder} holds a fit that was stopped: add resume=true, or move it away first")
        refuse_existing(self.folder)
        return Position()

    def resume(self, means: StreamMeans) -> Position:
        """Brings `means` to where the run stopped; a run that is not there begins.

        Raises:
            ValueError: the run was begun with other settings or clips, or is damaged.
        """
        if not (self.folder / STATE_FILE).exists():
            return self.begin()
        state = read_json(self.folder / STATE_FILE)
        if state.get("format") != FORMAT or state.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{self.folder} was begun with other settings, clips or another encoder: give the same, or move it away"
            )
        path = self.folder / Path(state["means"]["file"]).name
        try:
            if file_digest(path) != state["means"]["sha256"]:
                raise ValueError(f"{path} was changed: move {self.folder} away, and begin again")
            means.load(load_file(path), state["steps"])
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        inertia = tuple((float(total), int(buffers)) for total, buffers in state["inertia"])
        return Position(int(state["clips"]), int(state["revived"]), inertia)

    def save(self, means: StreamMeans, position: Position) -> None:
        """Writes the state whole, then removes the one before."""
        arrays, steps = means.saved()
        path = self.folder / f"means-{position.clips:06d}.safetensors"
        with atomic_file(path) as beside:
            save_file(arrays, beside)
        record: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "clips": position.clips,
            "revived": position.revived,
            "inertia": position.inertia,
            "steps": steps,
            "means": {"file": path.name, "sha256": file_digest(path)},
        }
        write_json(self.folder / STATE_FILE, record)
        for old in self.folder.glob("means-*.safetensors"):
            if old != path:
                old.unlink()

    def remove(self) -> None:
        """Once the tokenizer is written, nothing here is needed."""
        shutil.rmtree(self.folder, ignore_errors=True)
