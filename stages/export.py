"""A trained stage as a plain checkpoint of transformers, for any engine that serves Llama or Qwen3.

    out/
      config.json, model.safetensors     LlamaForCausalLM, or Qwen3ForCausalLM with QK-norm; the same logits
      triptych.json                      what its ids are, and how a sequence is laid out
      tokenizer.json                     where the text front end is that of a text model

The semantic stage is such a model, and the coarse stage in its flattened layout; the other coarse layouts and the fine
stage are no models of one id after another, and are refused.
"""

from pathlib import Path
from shutil import copyfile
from typing import Any

from triptych.lm.llama import save_llama
from triptych.lm.vocabulary import Vocabulary
from triptych.stages.coarse.sequence import CoarseStage, Flattening
from triptych.stages.semantic.sequence import SemanticStage
from triptych.stages.three import AnyStage, load_stage
from triptych.tokenizers.text.model_text import MODEL_FILE
from triptych.training.files import atomic_folder, write_json

NOTE_FILE = "triptych.json"


def export_stage(source: Path, out: Path, text: Path | None = None) -> dict[str, Any]:
    """Writes the stage in `source` (the folder with its stage.json) as a Llama checkpoint; returns triptych.json.

    Args:
        text: folder of the text front end; a text model's table goes along where its ids are the model's own.
    Raises:
        ValueError: `out` exists, or the stage has no Llama equal.
    """
    stage, model = load_stage(source)
    note = note_of(stage)
    v = vocabulary_of(stage)
    ends = {name: v.id(name) for name in ("bos", "eos") if name in {block.name for block in v.blocks}}
    with atomic_folder(out) as beside:
        ids = {f"{name}_id": number for name, number in ends.items()}
        save_llama(model.language_model, beside, longest=note["longest"], **ids)  # type: ignore[arg-type]
        write_json(beside / NOTE_FILE, note)
        if text is not None and (text / MODEL_FILE).is_file() and not v.start("text"):
            copyfile(text / MODEL_FILE, beside / "tokenizer.json")
    return note


def vocabulary_of(stage: AnyStage) -> Vocabulary:
    """The ids of a stage that is one language model.

    Raises:
        ValueError: it is not.
    """
    if isinstance(stage, SemanticStage):
        return stage.layout.vocabulary
    if isinstance(stage, CoarseStage) and stage.config.layout == "flattened":
        return Flattening.of(stage.config, stage.specs).vocabulary
    what = f"the {stage.config.layout} coarse stage" if isinstance(stage, CoarseStage) else "the fine stage"
    raise ValueError(f"{what} is no model of one id after another, so it has no Llama equal; the semantic stage has")


def note_of(stage: AnyStage) -> dict[str, Any]:
    """Blocks of ids, layout, positions: what an engine must be told."""
    v, grid = vocabulary_of(stage), stage.specs.grid
    note: dict[str, Any] = {
        "stage": stage.name,
        "blocks": {block.name: {"first_id": v.start(block.name), "ids": block.size} for block in v.blocks},
        "tokenizers": {kind: spec for kind, spec in stage.specs.to_json().items() if spec},
    }
    if isinstance(stage, SemanticStage):
        in_time = stage.config.positions == "time"
        frames = grid.beats(stage.config.max_seconds) * grid.semantic_per_beat
        return note | {
            "sequence": "[bos] text [sep] semantic [eos]",
            "positions": "time: text j at j * frames_per_symbol, semantic t at t" if in_time else "counted",
            "frames_per_symbol": stage.config.frames_per_symbol,
            "longest": 2 * frames + 3,
        }
    assert isinstance(stage, CoarseStage)
    beat = grid.semantic_per_beat + stage.config.levels * grid.acoustic_per_beat
    stretch = stage.config.levels * grid.acoustic_per_beat / grid.semantic_per_beat
    return note | {
        "sequence": "[bos] semantic [sep] codes, frame by frame, the levels of a frame side by side",
        "positions": f"time: [bos] and [sep] at 0, semantic t at 1 + t * {stretch:g}, code i at 1 + i",
        "longest": grid.beats(stage.config.prompt.max_seconds) * beat + 2,
    }
