"""`score`: does a recogniser hear what the recordings should say, and how natural do they sound?"""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.options import Json
from triptych.cli.progress import Bar, log, result, result_json


def score(
    listed: Annotated[
        Path,
        typer.Argument(metavar="LIST.jsonl", help='A line each: {"audio": …, "text": …}; "voice" if wanted.'),
    ],
    recogniser: Annotated[
        str | None,
        typer.Option("--recogniser", metavar="PATH|ID", help="A folder, or a hub id. Default: openai/whisper-base.en."),
    ] = None,
    naturalness: Annotated[
        str, typer.Option("--naturalness", metavar="JUDGE", help="dnsmos (DNSMOS P.835, overall), or none.")
    ] = "none",
    as_json: Json = False,
) -> None:
    """Measure the word error of recordings (English).

    Rows that name the recording of a voice are compared with it too; --naturalness dnsmos rates all.
    """
    from dataclasses import asdict

    from triptych.evaluation.score import Total, read_list, word_errors

    rows = read_list(listed)  # and the extra `eval` is there, before a recogniser is fetched
    from triptych.evaluation.naturalness import load_naturalness
    from triptych.evaluation.recogniser import DEFAULT, load_recogniser
    from triptych.evaluation.speaker import load_speaker

    rater = load_naturalness(naturalness)
    log(f"recogniser: {recogniser or DEFAULT}")
    speaker = load_speaker() if any(row.voice for row in rows) else None
    heard = []
    with Bar("score", "recordings", len(rows)) as bar:
        for judged in word_errors(rows, load_recogniser(recogniser or DEFAULT), speaker, rater):
            heard.append(judged)
            bar(len(heard), note=f"word error {Total.of(heard).word_error:.3f}")
            if not as_json:
                alike = "" if judged.similarity is None else f"  voice {judged.similarity:.2f}"
                rated = "" if judged.naturalness is None else f"  {naturalness} {judged.naturalness:.2f}"
                result(f"{judged.errors}/{judged.words}{alike}{rated}  {judged.audio}  | {judged.heard}")
    total = Total.of(heard)
    if as_json:
        result_json({**asdict(total), "word_error": total.word_error, "rows": [asdict(row) for row in heard]})
    else:
        alike = "" if total.similarity is None else f"; voice {total.similarity:.3f}"
        rated = "" if total.naturalness is None else f"; {naturalness} {total.naturalness:.2f}"
        words = f"word error {total.word_error:.3f}: {total.errors} of {total.words} words, {len(heard)} recordings"
        result(words + alike + rated)
