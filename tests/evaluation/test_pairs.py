"""Likelihood tests: the published formats are read as their own tools read them, and each token is scored once."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.evaluation.pair_making import COLUMNS, TextPair, make_pairs, read_text_pairs
from triptych.evaluation.pairs import PairSet, band, read_pairs
from triptych.evaluation.sections.likelihood import NONE_GIVEN, likelihood_section, log_probabilities
from triptych.evaluation.subject import Evaluation
from triptych.stages.cascade import Cascade
from triptych.stages.request import Settings
from triptych.stages.semantic.sequence import NOTHING

Changed = Callable[..., Evaluation]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def stems(found: PairSet) -> list[tuple[str, str]]:
    return [(pair.right[-1].stem, pair.wrong[-1].stem) for pair in found.pairs]


def test_zerospeech_gold_files_are_read_by_their_columns(tmp_path: Path) -> None:
    lexical, syntactic = tmp_path / "lexical" / "dev", tmp_path / "syntactic" / "dev"
    touch(*(lexical / f"{name}.wav" for name in "abcd"), *(syntactic / f"{name}.wav" for name in "ef"))
    (lexical / "gold.csv").write_text(
        "id,filename,voice,frequency,word,phones,length,correct\n"
        "1,a,A,40,brick,B R IH K,4,1\n1,b,A,,blick,B L IH K,4,0\n2,d,A,,squilled,,6,0\n2,c,A,0,squalled,,6,1\n"
    )
    (syntactic / "gold.csv").write_text(
        "id,filename,voice,type,subtype,correct,transcription\n"
        "1,f,B,agreement,verbs,0,dogs eats meat\n1,e,B,agreement,verbs,1,dogs eat meat\n"
    )
    words, sentences = read_pairs(tmp_path)
    assert (words.name, stems(words)) == ("sWUGGY dev", [("a", "b"), ("c", "d")])
    assert [pair.group for pair in words.pairs] == ["21-100", "oov"]
    assert (sentences.name, stems(sentences)) == ("sBLIMP dev", [("e", "f")])
    assert sentences.pairs[0].group == "agreement verbs"
    assert read_pairs(lexical)[0] == words
    (lexical / "b.wav").unlink()
    with pytest.raises(ValueError, match=r"no file .*b\.wav"):
        read_pairs(tmp_path)
    (lexical / "gold.csv").write_text("id,filename,voice,correct\n1,a,A,1\n1,b,A\n")
    with pytest.raises(ValueError, match="the row of b has fewer columns"):
        read_pairs(tmp_path)


def test_bands_of_frequency_are_those_of_zerospeech() -> None:
    """pandas.cut at 0, 1, 5, 20, 100, each closed on the left."""
    assert [band(n) for n in ("0", "1", "4", "5", "19", "20", "99", "100", "", None)] == [
        "oov", "1-5", "1-5", "6-20", "6-20", "21-100", "21-100", ">100", "", "",
    ]  # fmt: skip


def test_slamkit_folders_are_paired_by_number(tmp_path: Path) -> None:
    touch(*(tmp_path / "flat" / f"{n}_{word}.wav" for n, word in ((10, "z"), (9, "y"), (0, "b"), (1, "a"))))
    assert stems(read_pairs(tmp_path / "flat")[0]) == [("0_b", "1_a"), ("9_y", "10_z")]  # as numbers, not as text
    touch(*(tmp_path / "deep" / voice / f"{n}+x.wav" for voice in "AB" for n in (0, 1)))
    assert [pair.voice for pair in read_pairs(tmp_path / "deep")[0].pairs] == ["A", "B"]
    touch(tmp_path / "flat" / "11_left.wav")
    with pytest.raises(ValueError, match="without a partner"):
        read_pairs(tmp_path / "flat")
    touch(tmp_path / "flat" / "14_lost.wav")
    with pytest.raises(ValueError, match="without a partner"):
        read_pairs(tmp_path / "flat")


def test_a_story_that_is_cut_up_is_heard_from_its_beginning(tmp_path: Path) -> None:
    touch(*(tmp_path / f"7_{part}.wav" for part in ("mutual", "correct", "incorrect")))
    (pair,) = read_pairs(tmp_path)[0].pairs
    assert [file.stem for file in pair.right] == ["7_mutual", "7_correct"]
    assert [file.stem for file in pair.wrong] == ["7_mutual", "7_incorrect"]


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_pairs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither gold\.csv"):
        read_pairs(tmp_path)


def test_each_token_is_scored_once_and_by_all_before_it(starter: Cascade) -> None:
    """One window equals a plain forward pass; longer ones equal a slow loop over windows, token by token."""
    stage, model = starter.stages["semantic"]
    rng = np.random.default_rng(0)
    longest = stage.specs.grid.beats(stage.config.max_seconds) * stage.specs.grid.semantic_per_beat
    tokens = rng.integers(0, stage.specs.semantic.size, 2 * longest + 7).astype(np.uint16)
    found = log_probabilities(stage, model, tokens)
    assert found.shape == tokens.shape
    short = tokens[:20]
    ids, positions, _ = stage.layout.prefix(NOTHING, NOTHING, short)
    with torch.no_grad():
        logits = model.language_model(torch.from_numpy(ids)[None], positions=torch.from_numpy(positions)[None])[0]
    logs = logits.log_softmax(-1)
    begin = len(ids) - len(short)
    slow = [float(logs[begin + t - 1, ids[begin + t]]) for t in range(len(short))]
    assert log_probabilities(stage, model, short) == pytest.approx(slow, abs=1e-4)
    window = log_probabilities(stage, model, tokens[longest - longest // 2 : 2 * longest - longest // 2])
    assert found[:longest] == pytest.approx(log_probabilities(stage, model, tokens[:longest]), abs=1e-4)
    assert found[longest : 2 * longest - longest // 2] == pytest.approx(window[longest // 2 :], abs=1e-4)
    assert log_probabilities(stage, model, NOTHING).shape == (0,)


PAIRS = [
    TextPair("lexical", "1", "river", "ribber", frequency="40"),
    TextPair("syntactic", "2", "Dogs bark.", "Dogs barks.", type="agreement"),
]


@pytest.fixture(scope="module")
def spoken(starter: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    make_pairs(starter, PAIRS, ["af_heart", "am_fenrir"], folder, starter.settings, lambda done, total: None)
    return folder


def test_made_pairs_are_read_alike_in_both_formats(spoken: Path) -> None:
    for test, separator in (("lexical", "_"), ("syntactic", "+")):
        place = spoken / test / "dev"
        with (place / "gold.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert tuple(rows[0]) == COLUMNS[test] and len(rows) == 4
        by_gold = stems(read_pairs(place)[0])
        numbers = [(int(one.split(separator)[0]), int(other.split(separator)[0])) for one, other in by_gold]
        assert numbers == [(0, 1), (2, 3)]  # slamkit: the first of two is the right one
        (place / "gold.csv").rename(place / "hidden")
        assert stems(read_pairs(place)[0]) == by_gold
        (place / "hidden").rename(place / "gold.csv")


def test_pairs_are_scored_in_zerospeech_s_way(spoken: Path, starter: Cascade, evaluation_of: Changed) -> None:
    evaluation = evaluation_of(starter, pairs=(str(spoken),))
    section = likelihood_section(evaluation)
    table = section.tables[0]
    assert set(table.rows) == {"sWUGGY dev", "sBLIMP dev"}
    for file, test in (("lexical", "sWUGGY dev"), ("syntactic", "sBLIMP dev")):
        scores = {}
        for path in (evaluation.folder / "likelihood").glob("*.txt"):
            scores |= dict(line.split(" ") for line in path.read_text().splitlines())
        with (spoken / file / "dev" / "gold.csv").open() as stream:
            gold = list(csv.DictReader(stream))
        right = [float(scores[row["filename"]]) for row in gold if row["correct"] == "1"]
        wrong = [float(scores[row["filename"]]) for row in gold if row["correct"] == "0"]
        slow = np.mean([0.5 * (a == b) + (a > b) for a, b in zip(right, wrong, strict=True)])
        figure = table.rows[test]["mean"].estimate
        assert figure is not None and figure.mean == pytest.approx(slow)
        assert figure.clips == 1  # one pair, in two voices


def test_two_folders_of_one_kind_are_two_tests(spoken: Path, starter: Cascade, evaluation_of: Changed) -> None:
    other = spoken.with_name("others")
    shutil.copytree(spoken, other)
    evaluation = evaluation_of(starter, pairs=(str(spoken), str(other)))
    rows = likelihood_section(evaluation).tables[0].rows
    assert set(rows) == {"sWUGGY dev", "sBLIMP dev", "sWUGGY dev (2)", "sBLIMP dev (2)"}


def test_no_pairs_no_number(evaluation: Evaluation) -> None:
    section = likelihood_section(evaluation)
    assert section.about == NONE_GIVEN and not section.tables


def test_pairs_that_are_complete_are_not_made_again(spoken: Path, starter: Cascade) -> None:
    with pytest.raises(ValueError, match="exists already"):
        make_pairs(starter, PAIRS, ["af_heart"], spoken, starter.settings, lambda done, total: None)


def test_pairs_of_which_one_test_is_done_go_on(spoken: Path, starter: Cascade, tmp_path: Path) -> None:
    folder, voices = tmp_path / "stopped", ["af_heart", "am_fenrir"]
    shutil.copytree(spoken, folder)
    done, missing = (folder / test / "dev" / "gold.csv" for test in ("lexical", "syntactic"))
    before = missing.read_bytes()
    missing.unlink()
    stamp, seen = done.stat().st_mtime_ns, list[tuple[int, int]]()
    make_pairs(starter, PAIRS, voices, folder, starter.settings, lambda *counts: seen.append(counts))
    assert missing.read_bytes() == before and done.stat().st_mtime_ns == stamp
    assert seen[0] == (4, 8) and seen[-1] == (8, 8)
    (folder / "made_of.json").unlink()
    missing.unlink()
    with pytest.raises(ValueError, match="exists already"):
        make_pairs(starter, PAIRS, voices, folder, starter.settings, lambda done, total: None)


def test_pairs_go_on_with_what_they_were_begun_with(starter: Cascade, tmp_path: Path) -> None:
    def make(settings: Settings, bundle: str = "one", pair: TextPair = PAIRS[0], voice: str = "af_heart") -> None:
        make_pairs(starter, [pair], [voice], tmp_path, settings, lambda done, total: None, bundle=bundle)

    make(starter.settings)
    (tmp_path / "lexical" / "dev" / "gold.csv").unlink()  # as if it had been stopped
    for said, settings, bundle in (
        ("settings", replace(starter.settings, seed=1), "one"),
        ("bundle", starter.settings, "other"),
    ):
        with pytest.raises(ValueError, match=f"begun with another {said}: give the same"):
            make(settings, bundle)
    with pytest.raises(ValueError, match="begun with another list: give the same"):
        make(starter.settings, pair=replace(PAIRS[0], wrong="ribbber"))
    with pytest.raises(ValueError, match="begun with another voices: give the same"):
        make(starter.settings, voice="am_fenrir")
    wav = next(tmp_path.rglob("*.wav"))
    before = wav.stat().st_mtime_ns
    make(starter.settings)
    assert wav.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"test": "lexical", "right": "brick"}', 'give "right" and "wrong"'),
        ('{"test": "rhyme", "right": "a", "wrong": "b"}', "'test' is 'rhyme'"),
        ('{"test": "story", "start": "It rained.", "right": "Good.", "wrong": "Good."}', "the same"),
        ('{"test": "story", "right": "a", "wrong": "b", "sort": 1}', "unknown key 'sort'"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"test": "lexical", "right": "brick", "wrong": "blick"}\n' + line + "\n")
    with pytest.raises(ValueError, match=said) as error:
        read_text_pairs(path)
    assert "line 2" in str(error.value)


def test_a_story_begins_alike(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"test": "story", "start": "It rained.", "right": "We got wet.", "wrong": "It was dry."}\n')
    (pair,) = read_text_pairs(path)
    assert (pair.right, pair.wrong) == ("It rained. We got wet.", "It rained. It was dry.")
