"""launch/local.sh, stopped in each of its long steps: started again, it goes on, and no step is done twice."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNS = {"fit encoder": "encoder/run", "fit acoustic": "tokenizers/acoustic.run", "train coarse": "coarse"}
"""of a step that is stopped: where its run lies"""
STUB = f"""#!{sys.executable}
import sys
from pathlib import Path

said = sys.argv[1:]
step, work = " ".join(said[:2]) if said[0] in ("fit", "train") else said[0], Path("work")
with open("calls", "a") as calls:
    print(step, "again" if "resume=true" in said else "anew", file=calls)
run = {RUNS!r}.get(step)
if run and not (work / run / "latest").exists():
    (work / run).mkdir(parents=True)
    (work / run / "latest").touch()
    sys.exit(1)
if step != "train" and "-o" in said:
    made = Path(said[said.index("-o") + 1])
    made.parent.mkdir(parents=True, exist_ok=True)
    if made.suffix:
        made.touch()
    else:
        made.mkdir(exist_ok=True)
        (made / {{"fit encoder": "ctc.json", "tokenize": "shards.json"}}.get(step, "made")).touch()
"""


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_chain_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    stub = tmp_path / "bin" / "triptych"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    command = ["bash", str(ROOT / "launch" / "local.sh"), "corpus", "work"]
    path = {**os.environ, "PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}"}
    ended = [
        subprocess.run(command, cwd=tmp_path, env=path, capture_output=True).returncode for _ in range(len(RUNS) + 2)
    ]
    assert ended == [*(1 for _ in RUNS), 0, 0]
    calls = (tmp_path / "calls").read_text().splitlines()
    went_on = [line for line in calls if line.rsplit(" ", 1)[0] in RUNS]
    assert went_on == [f"{step} {how}" for step in RUNS for how in ("anew", "again")]
    others = [line.rsplit(" ", 1)[0] for line in calls if line not in went_on]
    assert len(others) == len(set(others)) == 7
