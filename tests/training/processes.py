"""Several processes that find each other as under torchrun, each doing the same list of trainings in turn.

`python processes.py jobs.json` is one of them; a job is {"stage", "run", …}: a name and the tree of its config.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

Job = dict[str, Any]
SMALL = {"transformer": {"dim": 32, "layers": 2, "heads": 2}}
STAGES: dict[str, dict[str, Any]] = {
    "semantic": {**SMALL, "label_smoothing": 0.0},
    "coarse": {**SMALL, "encoder_layers": 1, "code_noise": 0.0},
    "fine": {"transformer": {**SMALL["transformer"], "causal": False}},
}
"""small, and without dropout: what two ranks learn is what one learns with their micro-batches"""
TRAINING = {"learning_rate": 0.01, "warmup_steps": 1, "log_every": 1, "threads": 1, "device": "cpu", "timeout": 60}


def job(stage: str, run: Path, shards: Path, *, resume: bool = False, **training: Any) -> Job:
    """One training of a stage."""
    own = {"max_steps": 4, "validate_every": 2, "checkpoint_every": 2, **TRAINING, **training}
    tree = {"shards": str(shards), "run": str(run), "budget": 256, "resume": resume, "stage": STAGES[stage]}
    return {"name": stage, "tree": tree | {"training": own}}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(jobs: list[Job], folder: Path, world: int, **more: str) -> list[subprocess.Popen[str]]:
    """`world` processes that do the jobs."""
    file = folder / f"jobs-{free_port()}.json"
    file.write_text(json.dumps(jobs))
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **more}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(file)],
            env=os.environ | shared | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(world)
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes]
        return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]
    finally:
        for process in processes:
            process.kill()


def together(jobs: list[Job], folder: Path, world: int = 2) -> None:
    """Does the jobs in `world` processes, which must end well."""
    ended = finish(start(jobs, folder, world))
    assert [code for code, _ in ended] == [0] * world, "\n\n".join(error[-3000:] for _, error in ended)


def main() -> None:
    from triptych.cli.main import one_line
    from triptych.stages.training import train_stage
    from triptych.training.distributed import ranks

    jobs = json.loads(Path(sys.argv[1]).read_text())
    try:
        with ranks("cpu", jobs[0]["tree"]["training"]["timeout"], even_alone=True):  # one group for all of them
            for each in jobs:
                train_stage(**each)
    except ConnectionError as error:
        print(f"triptych: {one_line(error)}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(75)


if __name__ == "__main__":
    main()
