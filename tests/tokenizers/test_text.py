"""Text front ends: the same ids for the same text, and nothing that has a sound is lost unheard."""

import string
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers.text.fit import PhonemeFitConfig, PieceFitConfig, fit_phonemes, fit_pieces
from triptych.tokenizers.text.frontend import TextTokenizer, load_text
from triptych.tokenizers.text.model_text import ModelText
from triptych.tokenizers.text.phonemes import ENDS, WORD_BOUNDARY, PhonemeText

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "She read the book that he will read, didn't she?",
    "Worcestershire sauce costs four dollars!",
    "Please call Stella; ask her to bring these things.",
]


@pytest.fixture(scope="module")
def phonemes() -> PhonemeText:
    return PhonemeText()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("fit") / "text"
    fit_pieces(SENTENCES * 5, folder, PieceFitConfig(pieces=320))
    return load_text(folder)


def said(front: PhonemeText, text: str) -> str:
    return front.decode(front.encode(text))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It cost $4.50.", "It cost four dollars fifty cents."),
        ("Dr. Smith met Mrs. Jones.", "Doctor Smith met Missus Jones."),
        ("St. Mary lives on Main St.", "Saint Mary lives on Main Street."),
        ("I have 12 apples", "I have twelve apples."),
        ("$1.5 billion", "one point five billion dollars."),
        ("It is 5°C", "It is five degrees Celsius."),
        ("3kg", "three kilograms."),
        ("the 1990s", "the nineteen nineties."),
        ("agent 007", "agent zero zero seven."),
        ("add 2½ cups", "add two and a half cups."),
        ("50% off", "fifty percent off."),
        ("me & you", "me and you."),
        ("2 + 2 = 4", "two plus two equals four."),
        ("version 1.2.3", "version one point two point three."),
        ("a naïve café", "a naive cafe."),
        ("Wait - no", "Wait, no."),
        ("Wait—no…", "Wait, no."),
        ("“Quoted” (text)", "Quoted text."),
        ("STOP RIGHT THERE", "stop right there."),
        ("see example.com", "see example dot com."),
        ("ten–eleven, 3–4", "ten, eleven, three to four."),
        ("room No.5", "room number five."),
        ("It costs £5,000, he said", "It costs five thousand pounds, he said."),
        ("£5.00 or £5.50", "five pounds or five pounds fifty."),
        ("a 5G network", "a five G network."),
        ("We met on Dec. 25", "We met on December twenty five."),
        ("£1,50,000", "one hundred and fifty thousand pounds."),
        ("pages 1,2,3 of 1,000", "pages one, two, three of one thousand."),
    ],
)
def test_written_forms_are_spoken(phonemes: PhonemeText, written: str, spoken: str) -> None:
    assert said(phonemes, written) == said(phonemes, spoken)


def test_breaks_and_boundaries(phonemes: PhonemeText) -> None:
    assert said(phonemes, "Hello, world! How are you?") == "hɛlˈoʊ, wˈɚld! hˈaʊ ˈɑɹ jˈu?"
    assert said(phonemes, "Yes") == said(phonemes, "Yes.") != said(phonemes, "Yes?")


def test_parts_of_speech_decide(phonemes: PhonemeText) -> None:
    assert "ɹˈɛd" in said(phonemes, "I read it yesterday.")
    assert "ɹˈid" in said(phonemes, "I will read it.")


@pytest.mark.parametrize(
    "text", ["Привет", "你好 there", "ok 😀", "a < b", "مرحبا", "half a \ud800", "x\x00y", "π is", "1️⃣"]
)
def test_what_cannot_be_spoken_is_named(phonemes: PhonemeText, text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot speak .*U\+[0-9A-F]{4}.*write it out") as caught:
        phonemes.encode(text)
    str(caught.value).encode()  # it can be printed
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1" * 29, f"call {'7' * 40} now", f"${'9' * 400}", f"{'1' * 30}.5"])
def test_a_number_without_a_name_is_named(phonemes: PhonemeText, text: str) -> None:
    number = max(text.split(), key=len).strip("$")[:40]
    with pytest.raises(ValueError, match=f"cannot speak {number}.*too long"):
        phonemes.encode(text)
    assert said(phonemes, "1" * 28)


@pytest.mark.parametrize("text", ["", "  \n", "...", "?!", "-", "''", "()"])
def test_nothing_to_speak_is_said_so(phonemes: PhonemeText, pieces: TextTokenizer, text: str) -> None:
    for front in (phonemes, pieces):
        with pytest.raises(ValueError, match="nothing to speak"):
            front.encode(text)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=string.printable + "éßæ’“”—–…½€£°²ﬁ", max_size=24))
def test_any_text_gives_legal_ids_or_one_clear_line(phonemes: PhonemeText, text: str) -> None:
    front = phonemes
    try:
        ids = front.encode(text)
    except ValueError as error:
        assert str(error).startswith(("cannot speak", "nothing to speak"))
        return
    symbols = [front.symbols[i] for i in ids]
    assert ids.dtype == np.uint16
    assert symbols[0] not in (WORD_BOUNDARY, *ENDS)
    assert symbols[-1] in ENDS
    breaks = [s in (WORD_BOUNDARY, *ENDS) for s in symbols]
    assert not any(a and b for a, b in pairwise(breaks))
    np.testing.assert_array_equal(ids, front.encode(text))


SPOKEN = [*string.digits, *string.ascii_letters, *"&%+=@#$£€°", "7th", "0.5", "kv", "H2O", "16:9", "24/7", "1e5", "zh"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(SPOKEN), min_size=1, max_size=4))
def test_every_word_leaves_a_sound(phonemes: PhonemeText, words: list[str]) -> None:
    heard = said(phonemes, "then ".join(f"{word} " for word in words)).split("ðˈɛn")
    assert len(heard) == len(words)
    assert all(any(c.isalpha() for c in part) for part in heard)


def test_reading_does_not_depend_on_what_was_read_before(phonemes: PhonemeText) -> None:
    texts = ["NASA went up.", "nasa", "Hello HELLO", "naïve US", "us"]
    first = [list(phonemes.encode(text)) for text in texts]
    assert [list(phonemes.encode(text)) for text in reversed(texts)] == first[::-1]


def test_the_table_is_whole_and_fixed(phonemes: PhonemeText) -> None:
    assert len(set(phonemes.symbols)) == len(phonemes.symbols) == phonemes.spec.size
    assert phonemes.symbols[:5] == (" ", ".", ",", "?", "!")
    assert PhonemeText("en_US").spec == phonemes.spec
    for vowel in ("ɑ", "ə", "aɪ"):
        assert {vowel, f"ˈ{vowel}", f"ˌ{vowel}"} <= set(phonemes.symbols)


def test_encoding_takes_milliseconds(phonemes: PhonemeText) -> None:
    phonemes.encode(SENTENCES[0])
    start = time.process_time()
    for i in range(40):
        phonemes.encode(f"{SENTENCES[i % 4]} number {i}")
    assert (time.process_time() - start) / 40 < 0.05


def test_saved_is_loaded(tmp_path: Path, phonemes: PhonemeText, pieces: TextTokenizer) -> None:
    for name, front in (("a", phonemes), ("b", pieces)):
        front.save(tmp_path / name)
        again = load_text(tmp_path / name)
        assert again.spec == front.spec
        np.testing.assert_array_equal(again.encode(SENTENCES[1]), front.encode(SENTENCES[1]))


def test_another_gruut_is_told(tmp_path: Path, phonemes: PhonemeText) -> None:
    phonemes.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"rules": ', '"rules": 1000'))
    with pytest.warns(UserWarning, match="some words may sound different"):
        assert load_text(tmp_path).spec.fingerprint != phonemes.spec.fingerprint


def test_folders_that_hold_no_front_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_text(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"name": "morse"}')
    with pytest.raises(ValueError, match="'morse' is not known"):
        load_text(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"name": "sentencepiece"}')
    with pytest.raises(ValueError, match=r"pieces\.model does not exist"):
        load_text(tmp_path)
    (tmp_path / "pieces.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="not a sentencepiece model"):
        load_text(tmp_path)
    with pytest.raises(ValueError, match="language 'tlh' is not known"):
        PhonemeText("tlh")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("aZ9.,!?;'ж你مπ😀ñß& "), max_size=20))
def test_pieces_lose_no_character(pieces: TextTokenizer, characters: list[str]) -> None:
    text = " ".join(f"x{''.join(characters)}".split())
    assert pieces.decode(pieces.encode(text)) == text


def test_no_special_id_comes_out_of_a_text() -> None:
    from tokenizers import Tokenizer, models

    letters = {letter: i for i, letter in enumerate("<|endoftx>ab ")}
    table = Tokenizer(models.BPE({**letters, "<|endoftext|>": len(letters)}, []))
    table.add_special_tokens(["<|endoftext|>"])
    front = ModelText(table.to_str())
    assert front.table == table.to_str()
    assert front.decode(front.encode("a<|endoftext|>b")).replace(" ", "") == "a<|endoftext|>b"
    assert len(letters) not in front.encode("a<|endoftext|>b")


@pytest.mark.parametrize("unknown", [0, None])
def test_what_a_unigram_does_not_know_is_named(unknown: int | None) -> None:
    from tokenizers import Tokenizer, models

    table = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("<s>", 0.0)], unknown))
    table.add_special_tokens(["<s>"])
    front = ModelText(table.to_str())
    assert front.encode("aa").tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"cannot speak 'z' \(U\+007A\)"):
        front.encode("aaz")
    with pytest.raises(ValueError, match="cannot speak '<"):
        front.encode("a<s>")


def test_fits(tmp_path: Path) -> None:
    coverage = fit_phonemes([*SENTENCES, "Привет"], tmp_path / "g", PhonemeFitConfig())
    assert (coverage.texts, coverage.spoken, len(coverage.refused)) == (5, 4, 1)
    with pytest.raises(ValueError, match="exists already"):
        fit_phonemes([], tmp_path / "g", PhonemeFitConfig())
    with pytest.raises(ValueError, match="no text"):
        fit_pieces(["", " "], tmp_path / "p", PieceFitConfig())
    with pytest.raises(ValueError, match="pieces=10 cannot be fitted"):
        fit_pieces(SENTENCES, tmp_path / "p", PieceFitConfig(pieces=10))
    first, second = (fit_pieces(SENTENCES, tmp_path / name, PieceFitConfig(pieces=300)) for name in "xy")
    assert first == second
    assert load_text(tmp_path / "x").spec == load_text(tmp_path / "y").spec
