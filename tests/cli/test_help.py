"""Help is fast, and needs neither torch nor transformers."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from triptych.cli.main import DOCTORS, FITS, INSPECTS, VERBS, app

HEAVY = ("torch", "transformers", "lhotse", "sklearn", "matplotlib", "numpy", "omegaconf")
LINES = [
    ["--help"],
    *[[verb, "--help"] for verb in VERBS],
    *[["fit", target, "--help"] for target in FITS],
    *[["doctor", target, "--help"] for target in DOCTORS],
    *[["inspect", target, "--help"] for target in INSPECTS],
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_verb_has_help(line: list[str]) -> None:
    heard = CliRunner().invoke(app, line)
    assert heard.exit_code == 0
    assert "Usage:" in heard.stdout


def test_summaries_are_whole() -> None:
    lines = CliRunner().invoke(app, ["--help"]).stdout.splitlines()[1:]
    assert not [line for line in lines if line.endswith("...")]


def test_help_imports_nothing_heavy() -> None:
    command = f"""
import sys, time
from triptych.cli.main import app
for line in {LINES!r}:
    app(args=line, standalone_mode=False)
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
assert time.process_time() < 1.5  # all of them; the processor's time, since the machine may be busy
"""
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
