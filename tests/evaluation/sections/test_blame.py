"""The cascade doctor: an untrained stage is the one that it names, whoever is there to listen."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from triptych.evaluation.estimate import Estimate
from triptych.evaluation.evaluate import chosen
from triptych.evaluation.held_out import held_out
from triptych.evaluation.judges import Judges
from triptych.evaluation.ladder import COARSE, CODES, GENERATED, PARTS, RUNGS, make_rung, utterer
from triptych.evaluation.report import Section, Table
from triptych.evaluation.sections.blame import blame_section, learned_nothing, sentence, shadow
from triptych.evaluation.subject import Evaluation
from triptych.evaluation.verdict import Verdict
from triptych.evaluation.warp import Frames, cepstra, distortion
from triptych.stages.cascade import Cascade
from triptych.tokenizers.waveform import Waveform

Changed = Callable[..., Evaluation]


class Templates:
    """A recogniser of the 1970s: it hears the text of the template that is nearest, or that none is near."""

    def __init__(self, evaluation: Evaluation) -> None:
        rate = evaluation.cascade.sample_rate
        self.known: list[tuple[str, Frames]] = [
            (str(clip.text), cepstra(evaluation.waveform(clip), rate)) for clip in evaluation.recordings
        ]

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        heard = cepstra(waveform, sample_rate)
        apart = [(distortion(heard, frames) or 0.0, text) for text, frames in self.known]
        best, text = min(apart)
        return text if best < 4.5 else "no word at all"


def planted(starter: Cascade, stage: str | None) -> Cascade:
    """The starter with its fine stage in use, and one stage with random weights."""
    voices = {name: starter.named_voice(name) for name in starter.voices()}
    cascade = Cascade(starter.tokenizers, starter.stages, voices, replace(starter.settings, levels=0))
    if stage is not None:
        torch.manual_seed(1)
        cascade.stages[stage] = (starter.stages[stage][0], starter.stages[stage][0].model().eval())
    return cascade


def table(section: Section, name: str) -> Table:
    return next(found for found in section.tables if found.name == name)


def shares(section: Section) -> dict[str, float]:
    rows = table(section, "lost").rows
    return {part: row["share"].estimate.mean for part, row in rows.items() if row["share"].estimate}


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_an_untrained_stage_is_named_without_any_judge(starter: Cascade, evaluation_of: Changed, stage: str) -> None:
    section = blame_section(evaluation_of(planted(starter, stage)))
    assert section.about.startswith(f"Work on the {stage} stage first")
    assert "Not measured: word error, voice, naturalness" in section.about
    if stage != "fine":  # whose levels may lose less than a trained coarse stage does
        assert max(shares(section), key=shares(section).__getitem__) == stage


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_an_untrained_stage_is_named_by_the_words_that_are_heard(
    starter: Cascade, evaluation: Evaluation, evaluation_of: Changed, stage: str
) -> None:
    judges = Judges(recogniser=Templates(evaluation), absent={"speaker": "none", "naturalness": "none"})
    section = blame_section(evaluation_of(planted(starter, stage), judges))
    assert section.about.startswith(f"Work on the {stage} stage first")
    lost = table(section, "lost").rows
    assert lost["codec"]["words"].estimate is not None and lost["codec"]["words"].estimate.mean == 0.0
    assert lost[stage]["mel"].estimate is None  # words are there to be counted


def test_who_has_learned_nothing_is_told_from_who_has(starter: Cascade, evaluation_of: Changed) -> None:
    clips = held_out(evaluation_of(starter))
    assert not learned_nothing(evaluation_of(planted(starter, None)), clips)
    for stage in ("semantic", "coarse", "fine"):
        assert list(learned_nothing(evaluation_of(planted(starter, stage)), clips)) == [stage]
    lost = Table("lost", "", {}, {})
    shares = {part: Estimate(share, share, share, 9) for part, share in (("fine", 0.15), ("codec", 0.18))}
    told = sentence(Verdict("fine", 0.3, shares), lost, "10.0 bits")
    assert told.startswith("Work on the fine stage first: it has learned nothing (10.0 bits)")
    assert "the codec 18%" in told
    unmeasured = Verdict("coarse", 0.3, {"codec": shares["codec"]})
    assert sentence(unmeasured, lost, "10.0 bits").endswith("(10.0 bits).") and shadow(unmeasured) == ""


def test_a_close_call_names_the_next_part_too() -> None:
    lost = Table("lost", "", {}, {"coarse": {}})
    shares = {part: Estimate(share, share, share, 9) for part, share in (("coarse", 0.16), ("codec", 0.15))}
    assert "the codec loses 15%" in sentence(Verdict("coarse", 0.6, shares), lost)
    assert "codec" not in sentence(Verdict("coarse", 0.99, shares), lost)
    assert sentence(Verdict(None, 0.6, shares), lost).startswith("No part loses more than chance")


def test_the_rungs_differ_from_where_the_truth_ends(starter: Cascade, evaluation: Evaluation) -> None:
    clips = held_out(evaluation)
    clip = utterer(evaluation, clips, clips.judged[0], 0)
    cascade = planted(starter, None)
    made = {name: next(make_rung(cascade, name, [clip], 1)) for name in RUNGS[:-1]}
    coarse = cascade.stages["fine"][0].config.coarse_levels
    assert np.array_equal(made[CODES].codes, clip.codes)
    assert np.array_equal(made[COARSE].codes[:coarse], clip.codes[:coarse])
    assert not np.array_equal(made[COARSE].codes, clip.codes)
    assert all(np.array_equal(made[name].semantic, clip.semantic) for name in RUNGS[1:-1])
    assert clip.prompt is not None and clip.prompt != clip.name  # another recording of the voice


def test_a_cascade_without_text_is_judged_from_its_coarse_stage_on(starter: Cascade, evaluation_of: Changed) -> None:
    cascade = planted(starter, "coarse")
    cascade.tokenizers = replace(starter.tokenizers, text=None)
    section = blame_section(evaluation_of(cascade))
    assert section.about.startswith("Work on the coarse stage first")
    row = table(section, "rungs").rows[GENERATED]
    assert all(figure.estimate is None and "no text front end" in figure.why for k, figure in row.items() if k == "mel")
    assert "semantic" not in shares(section) and set(shares(section)) <= set(PARTS)


def test_levels_that_nobody_makes_are_the_fine_stage_s_loss(starter: Cascade, evaluation_of: Changed) -> None:
    section = blame_section(evaluation_of(starter))
    assert "leaves its fine stage out" in table(section, "rungs").note
    assert shares(section)["fine"] > 0


def test_sounds_of_all_rungs_are_kept(starter: Cascade, evaluation_of: Changed) -> None:
    evaluation = evaluation_of(starter, samples=1)
    section = blame_section(evaluation)
    assert [sample.label for sample in section.samples] == list(RUNGS)
    assert all((evaluation.folder / sample.audio).stat().st_size for sample in section.samples)


def test_the_doctor_comes_when_it_is_called() -> None:
    assert "blame" not in chosen(())
    assert set(chosen((), ("blame",))) == {*chosen(()), "blame"}
    assert chosen(("codec",), ("blame",)) == ("codec", "blame")
