"""The law of the house: who may import whom, and that the package is what the folders are."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import triptych
from triptych.cli.main import check_checkout

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "triptych"

MAY_SEE = {
    "cli": {"evaluation", "stages", "corpus", "tokenizers", "training"},
    "evaluation": {"stages", "corpus", "tokenizers", "training"},
    "stages": {"corpus", "tokenizers", "training", "lm"},
    "corpus": {"tokenizers", "training"},
    "tokenizers": {"training"},
    "lm": {"training.config"},
    "training": set(),
}
"""room -> the rooms below it; the language model takes from training only how a config is built"""
THREE = {"semantic", "coarse", "fine"}
SEES_THE_THREE = {"cascade.py", "request.py", "rules.py", "three.py", "training.py", "preflight.py", "listening.py"}
SEES_THE_THREE |= {"again.py", "export.py", "overfit.py", "sanity.py", "takes.py", "text_model.py"}
"""files of stages/: the cascade, the one that names the three, and those that train and sample any of them"""


def imports(source: str) -> Iterator[str]:
    """Full names of all that a source imports, in functions too; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def breaches(file: str, source: str) -> list[str]:
    """What `source` may not import, if it lies at `file` (relative to the package)."""
    parts = Path(file).parts
    room = parts[0]
    found = []
    for name in imports(source):
        target = name.split(".")
        if target[0] in ("stages", "configs") or name.startswith("tokenizers.spec"):
            found.append(f"{name}: not through triptych")
        if target[0] != "triptych" or len(target) < 2 or target[1] == room or target[1].startswith("__"):
            continue
        if room in MAY_SEE and not any(name.startswith(f"triptych.{below}") for below in MAY_SEE[room]):
            found.append(f"{room} may not see {name}")
    if room == "stages" and parts[1] not in SEES_THE_THREE:
        seen = {name.split(".")[2] for name in imports(source) if name.startswith("triptych.stages.")} & THREE
        found += [f"{file} may not see triptych.stages.{stage}" for stage in sorted(seen - {parts[1]})]
    return found


def sources() -> Iterator[tuple[str, Path]]:
    for room in MAY_SEE:
        for path in sorted((PACKAGE / room).resolve().rglob("*.py")):
            yield f"{room}/{path.relative_to((PACKAGE / room).resolve()).as_posix()}", path


def test_imports_go_one_way() -> None:
    files = list(sources())
    assert len(files) > 20
    assert [line for file, path in files for line in breaches(file, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("lm/a.py", "from triptych.tokenizers.spec import TimeGrid"),
        ("tokenizers/text/a.py", "def f():\n    import triptych.lm.vocabulary"),
        ("training/a.py", "from triptych.corpus import shards"),
        ("corpus/a.py", "from triptych.stages.cascade import Cascade"),
        ("stages/coarse/a.py", "from triptych.stages.semantic.sequence import x"),
        ("stages/stage.py", "from triptych.stages.fine.model import x"),
        ("stages/coarse/a.py", "from triptych.stages import fine"),
        ("stages/a.py", "import stages.coarse"),
        ("cli/a.py", "from tokenizers.spec import TimeGrid"),
        ("evaluation/a.py", "from triptych.cli.main import main"),
    ],
)
def test_the_law_finds_a_breach(file: str, source: str) -> None:
    assert breaches(file, source)


def test_the_law_allows_what_is_below() -> None:
    assert not breaches("stages/cascade.py", "from triptych.stages.fine.model import x\nimport triptych.lm.cache")
    assert not breaches("stages/coarse/a.py", "from triptych.stages.coarse.model import x\nimport tokenizers")


def test_top_folders_hide_nothing() -> None:
    assert not (ROOT / "tokenizers" / "__init__.py").exists()
    assert not (ROOT / "stages" / "__init__.py").exists()
    command = "import tokenizers, triptych.tokenizers.spec as s; tokenizers.Tokenizer; s.TimeGrid"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, env={"PYTHONPATH": "src"})


def test_a_checkout_without_symlinks_is_told_so(tmp_path: Path) -> None:
    check_checkout(Path(triptych.__file__).parent)
    for name in ("tokenizers", "configs"):
        (tmp_path / name).mkdir()
    (tmp_path / "stages").write_text("../../stages")
    with pytest.raises(ValueError, match=r"core\.symlinks"):
        check_checkout(tmp_path)


def test_wheel_and_sdist_carry_real_files(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run([*build, "-t", "wheel"], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for room in ("stages", "tokenizers", "configs"):
        wanted = {
            f"triptych/{room}/{path.relative_to(ROOT / room).as_posix()}"
            for path in (ROOT / room).rglob("*")
            if path.is_file() and path.suffix in (".py", ".yaml")
        }
        assert wanted <= names
    assert {name.split("/")[0] for name in names} == {"triptych", f"triptych-{triptych.__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".th", ".pt", ".bin"))]
