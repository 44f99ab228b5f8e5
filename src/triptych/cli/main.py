"""The door: every verb is hung up here, and every error leaves through here.

    the user's to mend     ValueError, TrainingError, OSError      one line on stderr, exit 1
    a missing extra        ModuleNotFoundError                     one line that says what to install, exit 1
    a training stopped     TrainingStopped                         one line that says how to go on, exit 130
    another rank is gone   RankLost                                one line that names it, exit 75: 'try again'
    ours to mend           anything else                           a traceback

Importing this module, and all help, needs neither torch nor transformers: each verb imports what it needs when it
runs. Knows no verb's business.
"""

import os
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import triptych
from triptych.cli import (
    bench,
    bundles,
    corpus,
    demo,
    doctor,
    evaluate,
    export,
    fit,
    guess,
    inspect,
    inspect_tokens,
    overfit,
    pairs,
    score,
    speech,
    train,
)

EXTRAS = {
    "deepspeed": "deepspeed",
    "encodec": "encodec",
    "jiwer": "eval",
    "peft": "lora",
    "pesq": "pesq",
    "pystoi": "eval",
    "speechmos": "dnsmos",
    "swift_f0": "eval",
    "tensorboard": "train",
}
"""module -> the extra that installs it"""

STOPPED = 130
"""exit code after Ctrl-C, as shells have it"""

app = typer.Typer(
    name="triptych",
    help="Hierarchical speech language models: text to semantic tokens to coarse to fine codes to sound.",
    epilog="Verbs take a path and key=value overrides; 'triptych config STAGE' prints every key.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fit_app = typer.Typer(help="Fit a tokenizer of one's own on recordings.", no_args_is_help=True)
inspect_app = typer.Typer(help="Look into what was fitted or trained.", no_args_is_help=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"triptych {triptych.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hierarchical speech language models: text to semantic tokens to coarse to fine codes to sound."""


VERBS: dict[str, Callable[..., None]] = {
    "prepare": corpus.prepare,
    "tokenize": corpus.tokenize,
    "train": train.train,
    "config": train.config,
    "bundle": bundles.bundle,
    "export": export.export,
    "guess": guess.guess,
    "info": bundles.info,
    "verify": bundles.verify,
    "voices": bundles.voices,
    "speak": speech.speak,
    "continue": speech.continue_,
    "convert": speech.convert,
    "resynthesise": speech.resynthesise,
    "score": score.score,
    "evaluate": evaluate.evaluate,
    "make-pairs": pairs.make_pairs,
    "bench": bench.bench,
    "demo": demo.demo,
}
FITS: dict[str, Callable[..., None]] = {
    "text": fit.text,
    "semantic": fit.semantic,
    "encoder": fit.encoder,
    "acoustic": fit.acoustic,
}
DOCTORS: dict[str, Callable[..., None]] = {
    "overfit": overfit.overfit,
}
INSPECTS: dict[str, Callable[..., None]] = {
    "codec": inspect.codec,
    "tokens": inspect_tokens.tokens,
    "layers": inspect_tokens.layers,
}
for _name, _verb in VERBS.items():
    app.command(_name)(_verb)
for _name, _verb in FITS.items():
    fit_app.command(_name)(_verb)
for _name, _verb in DOCTORS.items():
    doctor.app.command(_name)(_verb)
for _name, _verb in INSPECTS.items():
    inspect_app.command(_name)(_verb)
app.add_typer(fit_app, name="fit")
app.add_typer(inspect_app, name="inspect")
app.add_typer(doctor.app, name="doctor")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command line (default: sys.argv's) and ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that is not UTF-8 must not stop a finished work at its print
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for every file that is loaded, else
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a line for each try at a hub that cannot be reached, else
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a rank that is gone, our own line tells
    try:
        check_checkout(Path(triptych.__file__).parent)
        app(args=arguments, prog_name="triptych")
    except Exception as error:
        line = one_line(error)
        if line is None or os.environ.get("TRIPTYCH_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        name = type(error).__name__
        if line is not None and not (name == "TrainingStopped" and os.environ.get("RANK", "0") != "0"):
            print(f"triptych: {line}", file=sys.stderr)
        if name == "RankLost":
            leave_at_once()
        raise SystemExit(STOPPED if name == "TrainingStopped" else 1) from None


def leave_at_once() -> None:
    """Ends the process without the libraries' own farewells, which may wait for a rank that is gone."""
    from triptych.training.roll_call import LOST

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(LOST)


def check_checkout(package: Path) -> None:
    """Refuses a checkout whose symlinks came out as small text files.

    Raises:
        ValueError: it is one; with the remedy.
    """
    flat = [name for name in ("stages", "tokenizers", "configs") if not (package / name).is_dir()]
    if flat:
        raise ValueError(
            f"{package / flat[0]} is not a folder: this checkout has no symbolic links; clone it again with "
            "'git clone -c core.symlinks=true' (Windows: in developer mode), or pip install the package"
        )


def one_line(error: Exception) -> str | None:
    """What the user is told about an error that is theirs to mend; None for a bug."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            return None
        return f"this needs the package {package}: pip install 'triptych[{EXTRAS[package]}]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if not isinstance(error, ValueError | OSError | _training_errors() | _file_errors()):
        return None
    line = " ".join(str(error).split()) or type(error).__name__
    return line if _raised_here(error) else f"{line} (TRIPTYCH_TRACEBACK=1 shows where)"


def _file_errors() -> type[Exception]:
    """Of safetensors, where it was imported: a full disk, a file that is damaged."""
    library = sys.modules.get("safetensors")
    return ValueError if library is None else library.SafetensorError


def _training_errors() -> type[Exception] | types.UnionType:
    """They live beside torch; nobody can have raised one before their module was imported."""
    loop = sys.modules.get("triptych.training.loop")
    return ValueError if loop is None else loop.TrainingError | loop.TrainingStopped


def _raised_here(error: Exception) -> bool:
    """Whether Triptych itself raised it, with a message for users, and not a library under it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).startswith("triptych.")
