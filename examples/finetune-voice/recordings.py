"""Lists the recordings of one voice for `triptych prepare`, and one of them as the voice's prompt.

    python recordings.py RECORDINGS NAME OUT

    OUT/recordings.jsonl    a line a recording, all of the speaker NAME; every tenth is held out (split dev)
    OUT/voices.jsonl        NAME and a recording of 3 to 10 s, for `triptych bundle --voices`

RECORDINGS is whatever `triptych prepare` takes; a plain folder with a .txt beside each recording will do. One `prepare`
by itself holds out one recording in fifty, which of a few minutes leaves one or two.
"""

import json
import sys
from pathlib import Path

import soundfile

from triptych.corpus.readers import found_in

HELD_OUT_EVERY = 10
PROMPT_SECONDS = (3.0, 10.0)


def main(source: Path, name: str, out: Path) -> None:
    rows = [entry.recording for entry in found_in(source) if entry.recording is not None]
    if not rows:
        raise SystemExit(f"{source} holds no recordings")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "recordings.jsonl", "w", encoding="utf-8") as stream:
        for number, row in enumerate(rows):
            split = "dev" if number % HELD_OUT_EVERY == 0 else "train"
            line = {"audio": str(row.path.resolve()), "text": row.text, "speaker": name, "split": split}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    low, high = PROMPT_SECONDS
    fitting = [row for row in rows[1:] if low <= soundfile.info(row.path).duration <= high] or rows
    voice = {"name": name, "audio": str(fitting[0].path.resolve()), "text": fitting[0].text}
    (out / "voices.jsonl").write_text(json.dumps(voice, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
