"""A text of many minutes in one voice: words, voice and memory, minute by minute.

    python benchmarks/long_form.py TEXT.txt -o OUT --recogniser openai/whisper-base [--bundle DIR] [--voice NAME]

    OUT/long.wav        the whole, as `speak` makes it
    OUT/long.json       of each minute: word error, cosine of the voice to the prompt's

The recogniser hears stretches of 20 s; its words are aligned with the whole text, and an error belongs to the minute of
the word beside it. Knows no training.
"""

import argparse
import json
import resource
import time
from collections import Counter
from pathlib import Path

import jiwer

from triptych.evaluation.recogniser import load_recogniser
from triptych.evaluation.score import normaliser
from triptych.evaluation.speaker import load_speaker, similarity
from triptych.stages.cascade import Cascade
from triptych.tokenizers.waveform import Waveform, write_wav

STRETCH_SECONDS, MINUTE = 20, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    for name in ("recogniser", "bundle", "voice"):
        parser.add_argument(f"--{name}", required=name == "recogniser")
    said = parser.parse_args()
    cascade = Cascade.load(said.bundle)
    text = " ".join(said.text.read_text(encoding="utf-8").split())
    before, began = peak(), time.perf_counter()
    made = cascade.speak(text, voice=said.voice)
    taken, grown = time.perf_counter() - began, peak() - before
    write_wav(said.output / "long.wav", made.waveform, made.sample_rate)
    prompt = cascade.tokenizers.acoustic.decode(cascade.named_voice(said.voice or next(iter(cascade.voices()))).codes)
    speaker, rate = load_speaker(), made.sample_rate
    voice = speaker.embed(prompt, rate)
    words, errors = word_errors(text, made.waveform, rate, said.recogniser)
    minutes = []
    for minute in range(int(made.seconds // MINUTE)):
        cut = made.waveform[minute * MINUTE * rate : (minute + 1) * MINUTE * rate]
        alike = similarity(speaker.embed(cut, rate), voice)
        minutes.append({"words": words[minute], "word_error": errors[minute] / max(1, words[minute]), "voice": alike})
        print(f"minute {minute + 1:3}   word error {minutes[-1]['word_error']:.2f}   voice {alike:.3f}")
    found = {"seconds": made.seconds, "work": taken, "grown_mb": grown, "notes": made.notes, "minutes": minutes}
    (said.output / "long.json").write_text(json.dumps(found, indent=1))
    print(f"{made.seconds:.0f} s in {taken:.0f} s of work; memory grew by {grown:.0f} MB; {len(made.notes)} notes")


def word_errors(text: str, waveform: Waveform, rate: int, recogniser: str) -> tuple[Counter[int], Counter[int]]:
    """Words of the text, and errors, by minute."""
    normalise, ear = normaliser(), load_recogniser(recogniser)
    heard: list[tuple[str, int]] = []
    for start in range(0, len(waveform), STRETCH_SECONDS * rate):
        found = normalise(ear.hear(waveform[start : start + STRETCH_SECONDS * rate], rate)).split()
        heard += [(word, start // rate // MINUTE) for word in found]
    aligned = jiwer.process_words(normalise(text), " ".join(word for word, _ in heard)).alignments[0]
    words, errors = Counter[int](), Counter[int]()
    for chunk in aligned:
        wanted, got = chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        for number in range(max(wanted, got)):
            minute = heard[min(chunk.hyp_start_idx + min(number, max(0, got - 1)), len(heard) - 1)][1]
            words[minute] += number < wanted
            errors[minute] += chunk.type != "equal"
    return words, errors


def peak() -> float:
    """MB that this process held at most so far (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
