"""A bundle: one folder with the three stages and their tokenizers, for `Cascade.load`.

    bundle/
      bundle.json                     format, settings, checksums; written last
      stages/semantic/                stage.json, model.safetensors; likewise coarse/ and fine/
      tokenizers/                     text/, semantic/, acoustic/, waveform.json
      voices.json                     name -> what the voice says
      voices/NAME.safetensors         its semantic tokens [T] and codes [Q, T']

Invariant: file names are fixed here; no path is read from a bundle's JSON. No pickle. Knows no generation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from triptych.stages.three import STAGES, AnyStage, read_stage, read_state
from triptych.stages.weights import PRECISIONS, Precision, write_weights
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec, check_same
from triptych.tokenizers.trio import Tokenizers
from triptych.training.checkpoint import find_checkpoint
from triptych.training.files import atomic_folder, file_digest, read_json, write_json

FORMAT = 1
SHORTEST_VOICE = 0.5
LONGEST_VOICE = 30.0
"""seconds, of a voice prompt"""


@dataclass(frozen=True)
class Voice:
    """A clip of somebody's voice, tokenized; whole beats long."""

    semantic: NDArray[np.uint16]
    """[T]"""
    codes: NDArray[np.uint16]
    """[Q, T']"""
    text: str | None
    """what is said in it, if known"""


def hear_voice(tokenizers: Tokenizers, path: Path, text: str | None) -> Voice:
    """A voice prompt from a recording.

    Raises:
        ValueError: no audio, silence, or not between 0.5 and 30 seconds long.
    """
    prepared = tokenizers.prepare_file(path)
    seconds = len(prepared.waveform) / tokenizers.waveform.sample_rate
    if not SHORTEST_VOICE <= seconds <= LONGEST_VOICE:
        raise ValueError(
            f"{path}: {seconds:.1f} s; a voice prompt has {SHORTEST_VOICE} to {LONGEST_VOICE:.0f} s: cut it"
        )
    tokens = tokenizers.tokens(prepared)
    return Voice(tokens.semantic, tokens.codes, text)


def write_bundle(
    folder: Path,
    *,
    semantic: Path,
    coarse: Path,
    fine: Path,
    tokenizers: Path,
    voices: Mapping[str, tuple[Path, str | None]],
    settings: Mapping[str, Any] | None = None,
    precision: Precision = "float16",
    more_voices: Mapping[str, Voice] | None = None,
) -> None:
    """Joins three run folders (their best checkpoint) or checkpoints with their tokenizers.

    Args:
        voices: name to a recording and what is said in it.
        settings: how this cascade is best sampled; a plain tree of `cascade.Settings`.
        precision: of the stages' weights, float32, float16 or int8.
        more_voices: voices of a bundle with the same tokenizers; those of `voices` come first.
    Raises:
        ValueError: the folder exists, a stage was trained on tokens of other tokenizers, or a voice has a name that is
            none, or a text that cannot be said.
    """
    from triptych.stages.request import Settings
    from triptych.stages.takes import Proofreader
    from triptych.training.config import build

    sources = {
        name: find_checkpoint(path, "best")
        for name, path in {"semantic": semantic, "coarse": coarse, "fine": fine}.items()
    }
    if precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    loaded = Tokenizers.load(tokenizers)
    stages = {name: read_stage(source) for name, source in sources.items()}
    for name, source in sources.items():
        check_stage(name, stages[name], loaded.specs, loaded.grid, source)
    check_levels(stages["coarse"], stages["fine"])
    if build(Settings, dict(settings or {}), "settings of the bundle").semantic_takes > 1:
        Proofreader(loaded)
    for name, (_, text) in voices.items():
        _check_voice(name, text, loaded)
    with atomic_folder(folder) as beside:
        for name, source in sources.items():
            place = beside / "stages" / name
            place.mkdir(parents=True)
            record = read_json(source / "stage.json")
            record.pop("lora", None)  # `read_state` has added them
            write_json(place / "stage.json", record)
            write_weights(place / "model.safetensors", read_state(source), precision)
        for part in ("text", "semantic", "acoustic"):
            if (tokenizers / part).is_dir():
                copytree(tokenizers / part, beside / "tokenizers" / part)
        write_json(beside / "tokenizers" / "waveform.json", _asdict(loaded.waveform))
        heard = {name: hear_voice(loaded, path, text) for name, (path, text) in voices.items()}
        _write_voices(beside, heard | {name: v for name, v in (more_voices or {}).items() if name not in heard})
        files = {
            str(file.relative_to(beside)): file_digest(file) for file in sorted(beside.rglob("*")) if file.is_file()
        }
        write_json(beside / "bundle.json", {"format": FORMAT, "settings": dict(settings or {}), "files": files})


def _write_voices(folder: Path, voices: Mapping[str, Voice]) -> None:
    (folder / "voices").mkdir()
    for name, voice in voices.items():
        tokens = {"semantic": voice.semantic, "codes": voice.codes}
        save_arrays(tokens, folder / "voices" / f"{_plain_name(name)}.safetensors")
    write_json(folder / "voices.json", {name: voice.text for name, voice in voices.items()})


def _asdict(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)


def _check_voice(name: str, text: str | None, tokenizers: Tokenizers) -> None:
    """Before any is heard."""
    _plain_name(name)
    if text is not None and tokenizers.text is not None:
        try:
            tokenizers.text.encode(text)
        except ValueError as error:
            raise ValueError(f"voice {name}: {error}") from None


def _plain_name(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
        raise ValueError(f"voice name '{name}': use letters, digits, '-' and '_'")
    return name


def check_stage(name: str, stage: AnyStage, specs: Mapping[str, TokenizerSpec], grid: TimeGrid, where: Path) -> None:
    """Refuses a stage that was trained on tokens of other tokenizers than those of `specs`, by kind; of tokens that a
    stage neither reads nor writes it knows the beat alone.

    Raises:
        ValueError: names both, and the remedy.
    """
    if stage.name != name:
        raise ValueError(f"{where} holds a {stage.name} stage, not a {name} stage")
    if name != "fine":
        check_same(stage.specs.semantic, specs["semantic"], str(where))
    if name != "semantic":
        check_same(stage.specs.acoustic, specs["acoustic"], str(where))
    if stage.specs.grid != grid:
        raise ValueError(
            f"{where} was trained for another beat than that of these tokenizers: tokenize and train again"
        )
    if name == "semantic" and stage.specs.text:
        if "text" not in specs:
            raise ValueError(f"{where} was trained with text, but these tokenizers have none")
        check_same(stage.specs.text, specs["text"], str(where))


def read_bundle(folder: Path) -> dict[str, Any]:
    """bundle.json.

    Raises:
        ValueError: no bundle there, or one of a newer format.
    """
    if not (folder / "bundle.json").exists():
        raise ValueError(f"{folder} is no bundle: it has no bundle.json; `triptych bundle` makes one")
    record: dict[str, Any] = read_json(folder / "bundle.json")
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is a bundle of format {record.get('format')}, not {FORMAT}: use another triptych version"
        )
    return record


STARTER = "starter"
"""the cascade in the package, by name"""


def find_bundle(path: Path | str | None) -> Path:
    """The folder that a bundle's folder or hub id means; None, or "starter" where no such folder is: the starter.

    Raises:
        ValueError: there is none.
    """
    if path is None or (str(path) == STARTER and not Path(STARTER).is_dir()):
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


def read_voices(folder: Path) -> dict[str, Voice]:
    """The named voices of a bundle, in its order."""
    voices = {}
    for name, text in read_json(folder / "voices.json").items():
        arrays = load_arrays(folder / "voices" / f"{_plain_name(name)}.safetensors")
        voices[name] = Voice(arrays["semantic"], arrays["codes"], text)
    return voices


def check_bundle(folder: Path, tokenizers: Tokenizers, stages: Mapping[str, AnyStage]) -> None:
    """Refuses stages that do not belong to the tokenizers beside them."""
    for name in STAGES:
        check_stage(name, stages[name], tokenizers.specs, tokenizers.grid, folder / "stages" / name)
    check_levels(stages["coarse"], stages["fine"])


def check_levels(coarse: Any, fine: Any) -> None:
    """Raises ValueError where the fine stage reads levels that the coarse stage does not make."""
    made, read = coarse.config.levels, fine.config.coarse_levels
    if made < read:
        raise ValueError(
            f"the coarse stage makes {made} levels, and the fine stage reads {read}: train the one with "
            f"stage.levels={read}, or the other with stage.coarse_levels={made}"
        )


def verify_bundle(folder: Path) -> None:
    """Reads every file.

    Raises:
        ValueError: a file is missing or its bytes are not those that were written; names the first.
    """
    for name, digest in read_bundle(folder)["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise ValueError(f"{folder}: {name} is missing")
        if file_digest(path) != digest:
            raise ValueError(f"{folder}: {name} is damaged: copy or make the bundle again")


def describe(folder: Path) -> dict[str, Any]:
    """What a bundle holds: stages, tokenizers, voices, settings, bytes."""
    record = read_bundle(folder)
    stages = {}
    for name in STAGES:
        stage = read_json(folder / "stages" / name / "stage.json")
        stages[name] = {"step": stage.get("step"), "config": stage["config"]}
    specs = read_stage(folder / "stages" / "semantic").specs
    return {
        "stages": stages,
        "tokenizers": {kind: spec for kind, spec in specs.to_json().items() if spec},
        "voices": read_json(folder / "voices.json"),
        "settings": record["settings"],
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }
