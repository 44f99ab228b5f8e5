"""The optional way: fairseq2 itself hears its checkpoints of wav2vec 2.0 and w2v-BERT 2.0.

    checkpoint.pt ──▶ fairseq2's modules        what makes the features
                 └──▶ transformers' class       what is saved and fingerprinted; gives the same features

fairseq2 0.8.1 has all parts of w2v-BERT 2.0 (Shaw's positions, causal convolutions with layer norm), but no recipe that
joins them: that is done here. It runs with one version of torch alone, so it lives in an environment of its own,
docs/fairseq2.md. Clips are heard one by one; in a long recording, a group norm hears each window alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triptych.tokenizers.hub import expanded
from triptych.tokenizers.semantic.encoder import Encoder, round_weights
from triptych.tokenizers.semantic.fairseq2 import read_checkpoint, read_weights
from triptych.tokenizers.semantic.filterbank import MELS
from triptych.tokenizers.semantic.windows import Windows
from triptych.training.device import pick_device
from triptych.training.precision import Dtype

REQUIREMENTS = "requirements-fairseq2.txt"


def check_fairseq2() -> None:
    """
    Raises:
        ValueError: fairseq2 is not installed, or was built for another torch; says what to do.
    """
    try:
        import fairseq2  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"backend = fairseq2 cannot be used with torch {torch.__version__} as installed ({reason}): make an "
            f"environment from {REQUIREMENTS}, or leave backend=transformers, which reads the same checkpoints"
        ) from None


class Fairseq2Encoder(Encoder):
    """Made by `load`; `model` is transformers' twin."""

    frontend: Any
    blocks: Any

    @classmethod
    def load(
        cls,
        name: str | Path,
        layer: int,
        *,
        device: str | torch.device = "cpu",
        windows: Windows | None = None,
        dtype: Dtype = "fp32",
    ) -> "Fairseq2Encoder":
        """Reads a checkpoint file of fairseq2.

        Raises:
            ValueError: no fairseq2 here, no such file, or what `read_checkpoint` refuses.
        """
        check_fairseq2()
        path = Path(expanded(name))
        if not path.is_file():
            raise ValueError(f"{name} does not exist: with backend=fairseq2, give a checkpoint file of it")
        twin, front = read_checkpoint(path, layer)
        moved: Any = twin.to(pick_device(device, "device"))  # type: ignore[arg-type]
        encoder = cls(moved, front, layer, windows=windows, dtype=dtype)
        factory = encoder_factory(twin.config, front.stride)
        own = torch.nn.ModuleDict(
            {"encoder_frontend": factory.create_encoder_frontend(), "encoder": factory.create_encoder()}
        )
        weights = {key.replace("encoder.inner.", "encoder."): value for key, value in read_weights(path).items()}
        wanted = own.state_dict()
        own.load_state_dict({key: value for key, value in weights.items() if key in wanted})
        own.float().eval().requires_grad_(False).to(device)
        encoder.frontend, encoder.blocks = own["encoder_frontend"], own["encoder"]
        return encoder

    def round(self) -> None:
        """As `Encoder.round`, both."""
        super().round()
        round_weights(self.frontend)
        round_weights(self.blocks)

    def _batches(self, samples: Sequence[int]) -> Iterator[list[int]]:
        for batch in super()._batches(samples):
            yield from ([row] for row in batch)

    def _hear(self, padded: Tensor, lengths: list[int] | None) -> None:
        from fairseq2.nn import BatchLayout

        assert lengths is None
        if not self.front.wave:  # fairseq2 stacks the filterbanks itself
            padded = padded.view(len(padded), -1, MELS)
        self.blocks(*self.frontend(padded, BatchLayout.of(padded)))

    @property
    def _blocks(self) -> Any:
        return self.blocks.layers


def encoder_factory(config: Any, stride: int) -> Any:
    """fairseq2's maker of the encoder that a config of transformers describes; without dropout."""
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory

    common: dict[str, Any] = {
        "model_dim": config.hidden_size,
        "num_encoder_layers": config.num_hidden_layers,
        "num_encoder_attn_heads": config.num_attention_heads,
        "ffn_inner_dim": config.intermediate_size,
        "dropout_p": 0.0,
        "attn_dropout_p": 0.0,
        "layer_drop_p": 0.0,
        "feature_grad_scale": 1.0,
    }
    if config.model_type == "wav2vec2":
        pre = config.do_stable_layer_norm
        shape = Wav2Vec2EncoderConfig(
            **common,
            feature_dim=config.conv_dim[-1],
            feature_extractor_layer_descs=list(
                zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
            ),
            feature_extractor_bias=config.conv_bias,
            feature_extractor_layer_norm_convs=config.feat_extract_norm == "layer",
            layer_norm_features=not pre,
            pos_conv_kernel_size=config.num_conv_pos_embeddings,
            num_pos_conv_groups=config.num_conv_pos_embedding_groups,
            norm_order=TransformerNormOrder.PRE if pre else TransformerNormOrder.POST,
        )
        return Wav2Vec2EncoderFactory(shape)
    shape = Wav2Vec2EncoderConfig(
        **common,
        feature_dim=config.feature_projection_input_dim,
        use_fbank=True,
        num_fbank_channels=MELS,
        fbank_stride=stride,
        sample_fbank_every_k=1,
        layer_norm_features=False,
        feature_extractor_layer_descs=[],
        pos_encoder_type="shaw",
        use_conformer=True,
        depthwise_conv_kernel_size=config.conv_depthwise_kernel_size,
        norm_order=TransformerNormOrder.POST,
    )
    return _bert_factory(shape, config.left_max_position_embeddings, config.right_max_position_embeddings)


def _bert_factory(shape: Any, left: int, right: int) -> Any:
    from fairseq2.models.conformer import ConformerConvolution
    from fairseq2.models.transformer import IdentityBias, ShawRelativePositionSDPA, StandardMultiheadAttention
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderFactory

    dim, heads = shape.model_dim, shape.num_encoder_attn_heads

    class Bert2Factory(Wav2Vec2EncoderFactory):  # type: ignore[misc]
        def create_self_attention(self, _: Any) -> Any:
            positions = ShawRelativePositionSDPA(dim, heads, IdentityBias(), left, max_rhs_rel_pos=right)
            return StandardMultiheadAttention(dim, heads, positions)

        def create_conformer_conv(self) -> Any:
            return ConformerConvolution(
                dim, shape.depthwise_conv_kernel_size, causal_depthwise_conv=True, norm_type="layer_norm"
            )

    return Bert2Factory(shape)
