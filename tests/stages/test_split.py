"""Long texts in pieces: nothing that is spoken is lost or moved, and each piece is short enough where it can be."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from triptych.stages.split import split_text

LONGEST = 20
words = st.text("abcdé天気กि١_", min_size=1, max_size=12)
between = st.sampled_from([" ", "  ", "\n", ". ", "! \n", ", ", " – ", "。", "、", "؟ ", "। ", '." '])


def encode(text: str) -> str:
    """As front ends do: white space is one space, and a text with nothing to speak is refused."""
    if not any(sign.isalnum() or sign == "&" for sign in text):
        raise ValueError(f"nothing to speak in {text!r}")
    return " ".join(text.split())


def pieces_of(text: str) -> list[str]:
    return split_text(text, encode, lambda tokens: len(tokens) > LONGEST)


@given(st.lists(st.tuples(words, between), min_size=1, max_size=20))
def test_every_letter_is_spoken_once_and_in_order(said: list[tuple[str, str]]) -> None:
    text = "".join(word + sign for word, sign in said)
    assume(any(sign.isalnum() for sign in text))
    pieces = pieces_of(text)
    assert [s for piece in pieces for s in piece if s.isalnum()] == [s for s in text if s.isalnum()]
    assert all(len(piece) <= LONGEST or " – " in piece for piece in pieces)  # no word here is longer


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One two. Three four, five six. Seven.", ["One two. Three four,", "five six. Seven."]),
        ("I am here. I am there. You are not.", ["I am here.", "I am there.", "You are not."]),
        ("Name it.\n________\nThen sign it, please.", ["Name it.", "Then sign it,", "please."]),
        ("今天天气很好，我们去公园散步。明天下雨吗？在家。", ["今天天气很好，我们去公园散步。", "明天下雨吗？在家。"]),
        ("Rock & roll was here & there & all around.", ["Rock & roll was here", "& there & all", "around."]),
        ("Open from 10 – 20 on all days – it is free.", ["Open from 10 – 20 on", "all days it is free."]),
        ("10 – 20 – 30 – 40 – 50", ["10 20 30 40 50"]),
        ("เก" * 25, ["เก" * 10, "เก" * 10, "เก" * 5]),
        ("ก" * 50, ["ก" * 20, "ก" * 20, "ก" * 10]),
        ("字" * 50, ["字" * 20, "字" * 20, "字" * 10]),
        ("क्या हाल है। मैं ठीक हूँ। चलो।", ["क्या हाल है।", "मैं ठीक हूँ। चलो।"]),
        ("a" * 30, ["a" * 30]),
    ],
)
def test_pieces_end_where_a_reader_pauses(text: str, pieces: list[str]) -> None:
    assert pieces_of(text) == pieces


def test_what_is_short_is_one_piece() -> None:
    assert pieces_of("One two.  Three!") == ["One two. Three!"]
    with pytest.raises(ValueError, match="nothing to speak"):
        pieces_of("_____")
