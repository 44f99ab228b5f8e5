"""CTC's classes are those of the text, and what it says is counted right."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triptych.tokenizers.semantic.ctc import TextClasses, ctc_fits, edit_distance, greedy
from triptych.tokenizers.spec import TokenizerSpec


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_edit_distance(said: list[int], meant: list[int]) -> None:
    distance = edit_distance(said, meant)
    assert distance == edit_distance(meant, said)
    assert abs(len(said) - len(meant)) <= distance <= max(len(said), len(meant))
    assert (distance == 0) == (said == meant)
    assert edit_distance([*said, 9], meant) <= distance + 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_greedy_undoes_an_alignment(classes: list[int]) -> None:
    steps = [step for item in classes for step in (item, item, 4)]
    assert greedy(np.array(steps), blank=4) == classes
    text = np.array(classes)
    best = [classes[0]]
    for item, before in zip(classes[1:], classes[:-1], strict=True):
        best += [4, item] if item == before else [item]
    assert greedy(np.array(best), blank=4) == classes
    assert ctc_fits(text, len(best))
    assert not ctc_fits(text, len(best) - 1)


def test_text_classes_leave_out_and_merge(letters: object) -> None:
    merged = TextClasses.of(letters, skip=(".",), stress=False)
    apart = TextClasses.of(letters, skip=(".",), stress=True)
    assert (merged.names, apart.names) == (("a", "b", "c"), ("a", "ˈb", "b", "c"))
    assert merged.class_of == (0, 1, 1, 2, -1)


def test_text_classes_of_more_than_65536_tokens() -> None:
    class Wide:
        """Satisfies TextTokenizer."""

        spec = TokenizerSpec("text", "wide", 70_000)

        def decode(self, tokens: np.ndarray) -> str:
            return f"w{tokens[0]}"

    classes = TextClasses.of(Wide(), skip=(), stress=True)
    assert (len(classes.names), classes.names[-1], classes.class_of[-1]) == (70_000, "w69999", 69_999)
    assert TextClasses.named(Wide(), ["w69999"]).class_of[-2:] == (-1, 0)
