"""Training's way through encoder and decoder is the library's."""

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from triptych.tokenizers.acoustic.seanet import runner

torch.set_num_threads(1)


@pytest.mark.parametrize("padding", ["reflect", "constant"])
@pytest.mark.parametrize("shortcut", [True, False])
def test_values_and_gradients_equal_the_library(padding, shortcut):
    torch.manual_seed(0)
    model = EncodecModel(
        EncodecConfig(
            num_filters=4, hidden_size=8, codebook_size=8, num_lstm_layers=1, upsampling_ratios=[5, 3, 2],
            target_bandwidths=[2.4], pad_mode=padding, use_conv_shortcut=shortcut, num_residual_layers=2,
        )
    )  # fmt: skip
    for network, given in ((model.encoder, torch.randn(2, 1, 200)), (model.decoder, torch.randn(2, 8, 7))):
        given.requires_grad_()
        wanted, made = network(given), runner(network)(given)
        assert torch.allclose(made, wanted, atol=1e-5)
        inputs = [given, *network.parameters()]
        direction = torch.randn_like(wanted)
        for name, a, b in zip(
            ["input", *(name for name, _ in network.named_parameters())],
            torch.autograd.grad(made, inputs, direction),
            torch.autograd.grad(wanted, inputs, direction),
            strict=True,
        ):
            assert torch.allclose(a, b, atol=1e-4, rtol=1e-4), name


@pytest.mark.slow
def test_a_compiled_way_gives_the_same():
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=4, hidden_size=8, codebook_size=8, num_lstm_layers=1, target_bandwidths=[2.4])
    encoder = EncodecModel(config).encoder
    given = torch.randn(2, 1, 640)
    assert torch.allclose(runner(encoder, compiled=True)(given), encoder(given), atol=1e-4)
