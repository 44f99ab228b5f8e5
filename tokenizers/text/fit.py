"""Making a text front end: phonemes need no text, pieces are learned from it.

fit_phonemes(texts, tokenizers/text, PhonemeFitConfig())   tokenizer.json, and how many of the texts it can speak
fit_pieces(texts, tokenizers/text, PieceFitConfig())       tokenizer.json, pieces.model
fit_model(texts, tokenizers/text, ModelFitConfig(source))  tokenizer.json, pieces.json: those of a text model
"""

import io
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from pydantic.dataclasses import dataclass

from triptych.tokenizers.text.frontend import TextTokenizer
from triptych.tokenizers.text.model_text import ModelText
from triptych.tokenizers.text.phonemes import PhonemeText
from triptych.tokenizers.text.pieces import PieceText
from triptych.training.config import STRICT
from triptych.training.files import refuse_existing


@dataclass(frozen=True, config=STRICT)
class PhonemeFitConfig:
    """The gruut front end."""

    language: str = "en-us"
    """gruut's name of it; other than English needs pip install gruut-lang-…"""


@dataclass(frozen=True, config=STRICT)
class PieceFitConfig:
    """The sentencepiece front end (unigram, byte fallback)."""

    pieces: int = 2048
    """size of the table, 256 bytes and 3 control symbols among them; fewer where the texts hold no more"""
    coverage: float = 0.9995
    """share of the characters that get a piece of their own; the others become bytes"""
    seed_sentences: int = 1_000_000
    """texts looked at; more are sampled down to it"""


@dataclass(frozen=True, config=STRICT)
class ModelFitConfig:
    """The tokenizer of a language model of text, with which the semantic stage may begin."""

    source: str = ""
    """folder or hub id of the model, such as Qwen/Qwen3-0.6B"""


@dataclass(frozen=True)
class Coverage:
    """What became of the texts that a front end was tried on."""

    texts: int
    spoken: int
    tokens: int
    """of all spoken texts"""
    refused: list[str] = field(default_factory=list)
    """the first twenty reasons"""


def fit_phonemes(texts: Iterable[str], folder: Path, config: PhonemeFitConfig) -> Coverage:
    """Saves the front end of a language, and tries it on `texts`, of which there may be none."""
    refuse_existing(folder)
    front = PhonemeText(config.language)
    coverage = cover(front, texts)
    front.save(folder)
    return coverage


def fit_pieces(texts: Iterable[str], folder: Path, config: PieceFitConfig) -> Coverage:
    """Learns pieces from `texts` and saves them.

    Raises:
        ValueError: no text at all, or a table too small for its characters.
    """
    import sentencepiece

    refuse_existing(folder)
    lines = [line for text in texts if (line := " ".join(text.split()))]
    if not lines:
        raise ValueError("no text to fit pieces on: the manifest needs recordings with text")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=config.pieces,
            model_type="unigram",
            byte_fallback=True,
            character_coverage=config.coverage,
            input_sentence_size=config.seed_sentences,
            hard_vocab_limit=False,
            num_threads=1,  # more would make the table depend on their timing
            max_sentence_length=65536,
            normalization_rule_name="nmt_nfkc",
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"pieces={config.pieces} cannot be fitted on {len(lines)} texts: {reason}") from None
    front = PieceText(model.getvalue())
    front.save(folder)
    return cover(front, lines)


def fit_model(texts: Iterable[str], folder: Path, config: ModelFitConfig) -> Coverage:
    """Saves the tokenizer of a text model, and tries it on `texts`, of which there may be none.

    Raises:
        ValueError: no model is named, or it has no tokenizer that can be read.
    """
    refuse_existing(folder)
    if not config.source:
        raise ValueError("frontend=model: name the text model, model.source=FOLDER or a hub id")
    front = ModelText.of_model(config.source)
    coverage = cover(front, texts)
    front.save(folder)
    return coverage


def cover(front: TextTokenizer, texts: Iterable[str]) -> Coverage:
    """Counts which of `texts` can be spoken."""
    count = tokens = 0
    refused: list[str] = []
    failures = 0
    for count, text in enumerate(texts, start=1):  # noqa: B007
        try:
            tokens += len(front.encode(text))
        except ValueError as error:
            failures += 1
            if len(refused) < 20:
                refused.append(str(error))
    return Coverage(count, count - failures, tokens, refused)
