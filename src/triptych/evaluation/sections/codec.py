"""Section 'codec': what the codec alone leaves of recordings, at 1 to Q levels. The measuring is `inspect codec`'s.

Knows no stage.
"""

from typing import Any

from triptych.evaluation.codec import CodecInspectConfig, levels_kept, mel_distance, renderings
from triptych.evaluation.codec_report import RECORDING, level_name
from triptych.evaluation.judge import MEASURES, Clip, Judge, absent_measures
from triptych.evaluation.report import INK, Column, Sample, Section, Sheet, Table, plot
from triptych.evaluation.score import count_character_errors
from triptych.evaluation.sections.measures import CHARACTERS, Listener
from triptych.evaluation.subject import Evaluation

ABOUT = (
    "What is left of recordings when they pass through the codec, with 1 level kept, 2, … up to all: the bound on "
    "all that the cascade can say. Good: with as many levels as the cascade makes, the word error is that of the "
    "recordings, and the voice stays near 1. If this table is bad, no stage can mend it: fit a better codec first."
)


def codec_section(subject: Evaluation) -> Section:
    """The codec alone, level by level, against the recordings."""
    settings, codec, rate = subject.settings, subject.cascade.tokenizers.acoustic, subject.cascade.sample_rate
    columns = {name: Column(m.title, m.unit, m.digits, m.rising) for name, m in MEASURES.items()}
    judge, listener = codec_judge(subject), Listener(subject)
    absent = dict(judge.absent) | ({"characters": judge.absent["words"]} if "words" in judge.absent else {})
    sheet = Sheet("levels", "Levels kept", {"characters": CHARACTERS} | columns, absent)
    kept = levels_kept(codec.spec.levels, settings.codec_levels, "codec_levels")
    samples = []
    for number, recording in enumerate(subject.heard):
        clip = Clip(recording.id, subject.waveform(recording), recording.text, recording.speaker)
        codes = codec.encode(clip.waveform, rate)
        rendered = list(renderings(clip, codes, codec, kept, ()))
        listener.hear_ahead(made for _, made, _ in rendered if clip.text)
        for way, made, _ in rendered:
            scores = judge.judge(clip, made, compare=way != RECORDING)
            for name, (value, weight) in scores.numbers.items():
                sheet.put(way, name, clip.name, value, weight)
            for name, why in scores.reasons.items():
                sheet.lack(way, name, why)
            if "words" in scores.numbers and (heard := listener.hear(made, clip.text)):
                wrong = count_character_errors(heard.wanted, heard.words) / len(heard.wanted)
                sheet.put(way, "characters", clip.name, wrong, len(heard.wanted))
            if number == 0 and settings.samples and way in (RECORDING, level_name(1), level_name(kept[-1])):
                strips = {} if way == RECORDING else {"level 0": codes[0].tolist()}
                samples.append(Sample(way, subject.keep(f"codec {way}", made), clip.text or "", strips))
        subject.progress(number + 1, len(subject.heard), "through the codec")
    table = sheet.table(settings.resamples, settings.seed, note(subject))
    about = ABOUT + subject.left_out
    return Section("codec", "The codec alone", about, (table,), tuple(pictures(table)), tuple(samples))


def codec_judge(subject: Evaluation) -> Judge:
    """The judge of `inspect codec` with the ears of this evaluation, which remember by themselves."""
    judges, rate = subject.judges, subject.cascade.sample_rate
    absent = absent_measures(judges.recogniser is not None, judges.speaker is not None)
    for measure, judge in (("words", "recogniser"), ("voice", "speaker"), ("dnsmos", "naturalness")):
        if judge in judges.absent:
            absent[measure] = judges.absent[judge]
    mel = mel_distance(rate, CodecInspectConfig().mel_window)
    cache = subject.cache / "codec.jsonl"
    return Judge(rate, mel, absent, judges.recogniser, judges.speaker, cache, "; ".join(judges.names.values()))


def note(subject: Evaluation) -> str:
    """Which levels the cascade itself makes."""
    stages, settings = subject.cascade.stages, subject.cascade.settings
    made = settings.levels or subject.cascade.tokenizers.acoustic.spec.levels
    coarse = stages["fine"][0].config.coarse_levels
    return f"This cascade makes {made} levels as it is sampled, {coarse} of them by the coarse stage."


def pictures(table: Table) -> list[Any]:
    """Word error and intelligibility over levels, as far as there are any."""
    levels = [label for label in table.rows if label != RECORDING]
    found = []
    for key in ("words", "estoi", "voice"):
        row = [table.rows[label].get(key) for label in levels]
        numbers = [figure.estimate for figure in row if figure and figure.estimate]
        if len(numbers) == len(levels) and len(levels) > 1:
            found.append(
                plot(f"levels-{key}", f"{table.columns[key].title} over levels kept", curve(numbers, key, table))
            )
    return found


def curve(numbers: list[Any], key: str, table: Table) -> Any:
    def draw(axes: Any) -> None:
        places = [int(label.split()[0]) for label in table.rows if label != RECORDING]
        lows = [n.mean - (n.mean if n.low is None else n.low) for n in numbers]
        highs = [(n.mean if n.high is None else n.high) - n.mean for n in numbers]
        axes.errorbar(places, [n.mean for n in numbers], yerr=[lows, highs], color=INK, marker="o", ms=4, capsize=2)
        recording = table.rows.get(RECORDING, {}).get(key)
        if recording and recording.estimate:
            axes.axhline(recording.estimate.mean, color="0.6", linestyle=":", label="the recordings")
            axes.legend(frameon=False)
        axes.set_xlabel("levels kept")
        axes.set_ylabel(table.columns[key].title)
        axes.set_ylim(bottom=0)

    return draw
