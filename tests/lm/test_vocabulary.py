import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.lm.vocabulary import Block, Vocabulary

vocabularies = st.dictionaries(
    st.sampled_from(["bos", "sep", "eos", "text", "semantic", "codes"]), st.integers(1, 40), min_size=1, max_size=6
).map(lambda sizes: Vocabulary(tuple(Block(name, size) for name, size in sizes.items())))


@settings(deadline=None, max_examples=50)
@given(vocabularies)
def test_blocks_are_disjoint_and_cover_the_vocabulary(vocabulary: Vocabulary) -> None:
    legal = torch.stack([vocabulary.legal(block.name) for block in vocabulary.blocks])
    assert legal.shape[1] == vocabulary.size
    assert (legal.sum(0) == 1).all()
    assert [int(row.sum()) for row in legal] == [block.size for block in vocabulary.blocks]


@settings(deadline=None, max_examples=50)
@given(vocabularies)
def test_tokens_undoes_ids_for_arrays_and_tensors(vocabulary: Vocabulary) -> None:
    for block in vocabulary.blocks:
        tokens = np.arange(block.size, dtype=np.uint16)
        for given_tokens in (tokens, torch.from_numpy(tokens.astype(np.int32))):
            ids = vocabulary.ids(block.name, given_tokens)
            assert type(ids) is type(given_tokens)
            assert vocabulary.legal(block.name)[torch.as_tensor(ids)].all()
            assert (vocabulary.tokens(block.name, ids) == given_tokens).all()


@settings(deadline=None, max_examples=50)
@given(vocabularies)
def test_json_keeps_the_order(vocabulary: Vocabulary) -> None:
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json(), sort_keys=True))) == vocabulary


def test_small_dtypes_do_not_overflow() -> None:
    vocabulary = Vocabulary((Block("wide", 65_535), Block("codes", 1024)))
    assert vocabulary.ids("codes", np.array([1023], dtype=np.uint16))[0] == 65_535 + 1023


def test_a_token_outside_its_block_is_caught() -> None:
    vocabulary = Vocabulary((Block("bos", 1), Block("codes", 4), Block("eos", 1)))
    with pytest.raises(AssertionError):
        vocabulary.ids("codes", np.array([4]))
    with pytest.raises(AssertionError):
        vocabulary.tokens("codes", torch.tensor([vocabulary.id("eos")]))
    with pytest.raises(AssertionError):
        vocabulary.id("codes")


def test_duplicates_and_empty_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="'s' is named twice"):
        Vocabulary((Block("s", 2), Block("s", 3)))
    with pytest.raises(ValueError, match="'s' has size 0"):
        Vocabulary.from_json({"blocks": [{"name": "s", "size": 0}]})
