"""Makes the folders beside it with the real fairseq2, in an environment of requirements-fairseq2.txt:

    python tests/tokenizers/semantic/fairseq2/make.py

Tiny encoders with random weights, as checkpoints in fairseq2's format, and what fairseq2 hears in one clip: the input
that its modules were given, what enters the first block and what leaves each. Without triptych, so that nothing here
agrees by mistake. wav2vec2_group has two heads, which shapes do not tell: its config.json says so, written by hand.
"""

from pathlib import Path

import torch
from fairseq2.models.conformer import ConformerConvolution
from fairseq2.models.transformer import (
    IdentityBias,
    ShawRelativePositionSDPA,
    StandardMultiheadAttention,
    TransformerNormOrder,
)
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory, Wav2Vec2Factory
from fairseq2.nn import BatchLayout
from safetensors.torch import save_file

HERE = Path(__file__).parent
CONVOLUTIONS = [(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2
SIZES = dict(
    model_dim=16,
    num_encoder_layers=2,
    num_encoder_attn_heads=2,
    ffn_inner_dim=24,
    dropout_p=0.0,
    attn_dropout_p=0.0,
    layer_drop_p=0.0,
)
WAVES = dict(
    SIZES, feature_dim=8, feature_extractor_layer_descs=CONVOLUTIONS, pos_conv_kernel_size=8, num_pos_conv_groups=4
)


class Bert2Factory(Wav2Vec2EncoderFactory):
    """w2v-BERT 2.0, of fairseq2's own parts: positions of Shaw et al., causal convolutions with layer norm."""

    def create_self_attention(self, _):
        return StandardMultiheadAttention(16, 2, ShawRelativePositionSDPA(16, 2, IdentityBias(), 64, max_rhs_rel_pos=8))

    def create_conformer_conv(self):
        return ConformerConvolution(16, 5, causal_depthwise_conv=True, norm_type="layer_norm")


class Bert2(Wav2Vec2Factory):
    def create_encoder_frontend(self):
        return Bert2Factory(self._config.encoder_config).create_encoder_frontend()

    def create_encoder(self):
        return Bert2Factory(self._config.encoder_config).create_encoder()


def make(name, factory, encoder_config, clip, wrapped):
    torch.manual_seed(len(name))
    rest = dict(quantized_dim=8, final_dim=8, num_codebook_entries=4)
    model = factory(Wav2Vec2Config(encoder_config=encoder_config, **rest)).create_model().eval()
    for value in model.parameters():  # norms and biases that do something
        value.data.add_(0.05 * torch.randn_like(value))
    found = {"input": clip[0].contiguous()}
    with torch.no_grad():
        seqs, layout = model.encoder_frontend(clip, BatchLayout.of(clip))
        found["hidden_0"] = seqs[0].contiguous()

        def keep(index, output, *_):
            found[f"hidden_{index + 1}"] = output[0].clone()
            return True

        with model.encoder.register_layer_hook(keep):
            model.encoder(seqs, layout)
    weights = model.state_dict()
    saved = {"model": {f"w2v2_model.{key}": value for key, value in weights.items()}} if wrapped else weights
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    torch.save(saved, folder / "model.pt")
    save_file(found, folder / "hidden.safetensors")
    print(name, type(model).__name__, {key: list(value.shape) for key, value in found.items()})


def main():
    torch.manual_seed(1)
    noise = torch.randn(1, 3200)
    pad = torch.nn.functional.pad
    post = Wav2Vec2EncoderConfig(**WAVES)
    make("wav2vec2_group", Wav2Vec2Factory, post, pad(noise, (40, 40)), wrapped=False)
    wide = dict(
        WAVES, model_dim=64, num_encoder_layers=1, num_encoder_attn_heads=1, ffn_inner_dim=8, num_pos_conv_groups=16
    )
    pre = Wav2Vec2EncoderConfig(
        **wide,
        layer_norm_features=False,
        feature_extractor_bias=True,
        feature_extractor_layer_norm_convs=True,
        norm_order=TransformerNormOrder.PRE,
    )
    make("wav2vec2_layer", Wav2Vec2Factory, pre, pad(noise, (40, 40)), wrapped=False)
    bert = Wav2Vec2EncoderConfig(
        **SIZES,
        feature_dim=160,
        use_fbank=True,
        num_fbank_channels=80,
        fbank_stride=2,
        sample_fbank_every_k=1,
        layer_norm_features=False,
        feature_extractor_layer_descs=[],
        pos_encoder_type="shaw",
        use_conformer=True,
        depthwise_conv_kernel_size=5,
        norm_order=TransformerNormOrder.POST,
    )
    make("w2vbert2", Bert2, bert, torch.randn(1, 20, 80), wrapped=True)


if __name__ == "__main__":
    main()
