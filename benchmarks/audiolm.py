"""audiolm-pytorch's semantic transformer, for whoever compares: from a folder made by

    pip install --no-deps --target DIR audiolm-pytorch beartype local-attention hyper-connections \\
        gateloop-transformer rotary-embedding-torch

Its modules for sound, which neither a step nor decoding needs, are stood in for.
"""

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from triptych.lm.transformer import TransformerConfig

ABSENT = (
    *("torchaudio", "torchaudio.functional", "torchaudio.transforms", "fairseq", "encodec", "encodec.utils"),
    *("accelerate", "accelerate.utils", "ema_pytorch", "pytorch_warmup", "wandb"),
)
"""what audiolm-pytorch imports and its semantic transformer does not use"""


def semantic_transformer(folder: Path, shape: TransformerConfig, vocabulary: int, device: Any = "cpu") -> Any:
    """Its SemanticTransformerWrapper, without text; the model is its `transformer`."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer  # noqa: F401 - before torchaudio seems to be there

    sys.path.append(str(folder))
    for name in ABSENT:
        sys.modules[name] = stand_in(name)
    import audiolm_pytorch.audiolm_pytorch as theirs

    theirs.get_encoded_dim = lambda *_: shape.dim
    model_of: Any = theirs.SemanticTransformer
    model = model_of(
        dim=shape.dim, depth=shape.layers, heads=shape.heads, num_semantic_tokens=vocabulary, has_condition=False
    )
    return theirs.SemanticTransformerWrapper(transformer=model.to(device), unique_consecutive=False)


class StandIn(types.ModuleType):
    """A module that has whatever is asked of it."""

    def __getattr__(self, attribute: str) -> type:
        return type(attribute, (), {"__init__": lambda self, *_, **__: None})


def stand_in(name: str) -> StandIn:
    module = StandIn(name)
    module.__path__, module.__spec__ = [], ModuleSpec(name, None)
    return module
