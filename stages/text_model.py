"""A language model of text becomes the semantic stage: its vocabulary grows by what speech needs.

    theirs    text ................... (padding rows)         [text]     as they were, row by row
    ours      text ...................  bos sep eos semantic             new rows, drawn like the old ones

Any model of the Llama or Qwen3 kind, from a folder or the hub (safetensors alone). Its own tokenizer is the text front
end, so its text ids and what it knows of them stay. Knows no data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triptych.corpus.shard_set import ShardSet
from triptych.lm.llama import load_llama, shape_of
from triptych.stages.semantic.model import SemanticModel
from triptych.tokenizers.hub import expanded, on_this_machine
from triptych.tokenizers.spec import check_same
from triptych.tokenizers.text.model_text import ModelText

KINDS = ("llama", "qwen3")


def is_text_model(source: str) -> bool:
    """Whether a folder or hub id holds a language model of transformers."""
    source = str(expanded(source))
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        return False
    from transformers import AutoConfig  # late: a bundle or a run needs none of it

    try:
        return AutoConfig.from_pretrained(source, local_files_only=on_this_machine(source)).model_type is not None
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class TextModel:
    """Weights of a text model. Satisfies `stages.initial.Beginning`."""

    source: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """The shape of its transformer, counted positions, and the text ids first, as it numbers them."""
        from transformers import AutoConfig

        theirs = AutoConfig.from_pretrained(self.source)
        shape, tied = shape_of(theirs), bool(theirs.tie_word_embeddings)
        return {"transformer": shape, "tie_embeddings": tied, "text_first": True, "positions": "plain"}

    def check(self, shards: ShardSet, known: ShardSet | None = None) -> None:
        """Raises ValueError where the texts of the shards were not tokenized by the model's own tokenizer."""
        if known:
            raise ValueError(
                f"init_shards: {self.source} is a model of text and knows no semantic tokens: leave it out"
            )
        own = ModelText.of_model(self.source).spec
        remedy = f"triptych fit text … frontend=model model.source={self.source}"
        if "text" not in shards.specs:
            raise ValueError(f"{shards.folder} was tokenized without text: {remedy}, and tokenize again")
        try:
            check_same(shards.specs["text"], own, str(shards.folder))
        except ValueError as error:
            raise ValueError(f"init={self.source}: {error} ({remedy})") from None

    def load(self, model: nn.Module, carried: object = None) -> list[str]:
        assert isinstance(model, SemanticModel)
        theirs = load_llama(self.source)
        ours = model.language_model
        if ours.tied != theirs.tied:
            raise ValueError(f"init={self.source}: stage.tie_embeddings must be {str(theirs.tied).lower()}, as there")
        try:
            ours.transformer.load_state_dict(theirs.transformer.state_dict())
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise ValueError(f"init={self.source}: its weights do not fit this config: {said}") from None
        kept = model.text_rows
        pairs: Mapping[str, tuple[nn.Module, nn.Module | None]] = {
            "embedding": (theirs.embedding, ours.embedding),
            **({} if theirs.head is None else {"head": (theirs.head, ours.head)}),
        }
        for source, target in pairs.values():
            assert target is not None
            old, new = source.weight, target.weight
            assert isinstance(old, Tensor) and isinstance(new, Tensor)
            if len(old) < kept:
                raise ValueError(f"init={self.source}: {len(old)} rows for {kept} text ids: its tokenizer is another")
            new.data.copy_(grown(old.detach()[:kept], len(new)))
        return []


def grown(old: Tensor, size: int) -> Tensor:
    """Rows [size, D]: the old ones [n, D], and new ones drawn from their mean and spread in each feature.

    New rows of another scale would take or lose all probability at the first step (Hewitt 2021 on new words).
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(size - len(old), old.shape[1], generator=generator)
    return torch.cat([old, old.mean(0) + noise * old.std(0)])
