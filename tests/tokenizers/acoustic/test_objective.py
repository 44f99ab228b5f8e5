"""The discriminator, the balancer, and the two of them in one backward."""

import math
from dataclasses import replace

import pytest
import torch

from triptych.tokenizers.acoustic.balancer import Balancer
from triptych.tokenizers.acoustic.discriminator import (
    SLOPE,
    Discriminator,
    PeriodDiscriminator,
    convolved,
    feature_distance,
    fooling_loss,
    telling_loss,
)
from triptych.tokenizers.acoustic.objective import Objective
from triptych.tokenizers.acoustic.settings import CodecFitConfig, DiscriminatorConfig
from triptych.training.optimiser import make_optimizer

torch.set_num_threads(1)
CONFIG = CodecFitConfig(
    ratios=(3, 4, 5, 8), crop_seconds=0.2, batch=2, mel_windows=(256,),
    discriminator=DiscriminatorConfig(start=3, alone_steps=0, windows=(512, 256), filters=4, update_share=0.5),
)  # fmt: skip


def waveforms(seed: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, CONFIG.crop, generator=torch.Generator().manual_seed(seed)) * 0.07


def test_each_loss_gets_its_share_whatever_its_scale():
    weights = {"a": 1.0, "b": 3.0, "off": 0.0}
    balancer = Balancer(weights, norm=2.0, decay=0.9)
    output = torch.randn(4, 50, requires_grad=True)
    directions = {name: torch.nn.functional.normalize(torch.randn(4, 50), dim=1) for name in weights}
    for _ in range(3):  # rows of the same gradient norm: the averages are exact from the first step on
        losses = {"a": 1e-4 * (output * directions["a"]).mean(), "b": 1e3 * (output * directions["b"]).mean()}
        gradient = balancer({**losses, "off": output.sum()}, output)
        expected = 2.0 / 4 * (0.25 * directions["a"] + 0.75 * directions["b"])
        assert torch.allclose(gradient, expected, atol=1e-5)


def test_balanced_gradients_do_not_know_how_rows_are_dealt():
    output = torch.randn(4, 50, requires_grad=True)

    def gradient_of(rows: slice) -> torch.Tensor:
        leaf = output[rows].detach().requires_grad_()
        balancer = Balancer({"a": 1.0}, norm=1.0, decay=0.9)
        balancer.norms += 0.7
        balancer.seen += 1.0
        balancer.decay = 1.0  # the averages stand still
        return balancer({"a": leaf.pow(3).mean()}, leaf)

    halves = torch.cat([gradient_of(slice(0, 2)), gradient_of(slice(2, 4))]) / 2  # the mean over two ranks
    assert torch.allclose(gradient_of(slice(0, 4)), halves, atol=1e-7)


def test_a_loss_of_some_rows_weighs_as_much_there_as_one_of_all():
    """And where it is of none, its average stays, and it says nothing."""
    weights = {"a": 1.0, "b": 1.0}
    balancer = Balancer(weights, norm=2.0, decay=0.9)
    output = torch.randn(4, 50, requires_grad=True)
    directions = torch.nn.functional.normalize(torch.randn(4, 50), dim=1)
    for some in (0, 0, 2, 1, 0, 3):
        losses = {"a": (output * directions).mean(), "b": 10 * (output * directions)[:some].sum() / max(1, some)}
        gradient = balancer(losses, output, {"b": some})
        share = torch.tensor([1.0] * some + [0.5] * (4 - some))[:, None]
        assert torch.allclose(gradient, 2.0 / 4 * share * directions, atol=1e-5)


@pytest.mark.parametrize("compression", [1.0, 0.3])
def test_what_is_ten_times_fainter_is_seen_as_its_power(compression):
    """A new discriminator has no biases, so its logits scale with what it sees."""
    torch.manual_seed(0)
    discriminator = Discriminator(replace(CONFIG.discriminator, compression=compression, floor=1e-3), 0.07, CONFIG.crop)
    loud, faint = (discriminator(waveforms(0) * gain)[0] for gain in (1.0, 0.1))
    for one, other in zip(loud, faint, strict=True):
        torch.testing.assert_close(other, one * 0.1**compression, rtol=0.02, atol=0.02 * one.abs().max().item())


@pytest.mark.parametrize("frames", [1, 3, 8, 13])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_dilated_convolution_is_the_same_by_the_shorter_way(dilation, frames):
    """Values and gradients, where frames are a multiple of the dilation and where they are not."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(
        4, 5, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4), dtype=torch.double
    )
    seen, weights = torch.randn(2, 4, frames, 17, dtype=torch.double, requires_grad=True), convolution.weight
    found = []
    for made in (convolution(seen), convolved(seen, convolution)):
        gradients = torch.autograd.grad((made * made).sum(), [seen, weights, convolution.bias])
        found.append((made, *gradients))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_windows_are_drawn_anew_at_each_step_and_each_one_learns():
    said = replace(CONFIG.discriminator, start=0, windows_a_step=1)
    objective = Objective(replace(CONFIG, discriminator=said)).train()
    assert objective.adversary is not None
    scales, heard = objective.adversary.discriminator.scales, set()
    for step in range(1, 20):
        torch.manual_seed(step)
        objective.zero_grad()
        made = waveforms(0).requires_grad_()
        objective(made, waveforms(1), step)[0].backward()
        learned = [any(p.grad is not None for p in scale.parameters()) for scale in scales]
        assert sum(learned) == (1 if objective.adversary.learns(step) else 0)
        heard |= {i for i, one in enumerate(learned) if one}
    assert heard == {0, 1}
    with pytest.raises(ValueError, match="windows_a_step=3"):
        replace(CONFIG.discriminator, windows_a_step=3)


def test_a_discriminator_sees_every_window_and_refuses_short_crops():
    discriminator = Discriminator(CONFIG.discriminator, 0.07, CONFIG.crop)
    logits, features = discriminator(waveforms(0))
    assert [tuple(one.shape[:2]) for one in logits] == [(2, 1), (2, 1)]
    assert [one.shape[2] for one in logits] == [(CONFIG.crop - w) // (w // 4) + 1 for w in (512, 256)]
    assert [len(scale) for scale in features] == [5, 5]
    assert [one.shape[3] for one in features[0]] == [257, 129, 65, 33, 33]  # a stride of 2 in frequency, thrice
    with pytest.raises(ValueError, match="crop_seconds"):
        Discriminator(replace(CONFIG.discriminator, windows=(8192,)), 0.07, CONFIG.crop)


@pytest.mark.parametrize("period", [1, 3, 7])
def test_a_period_is_the_papers_convolution_over_a_folded_waveform(period):
    """Convolutions of 5 by 1 over [N / p, p]: the slow way, with the same weights."""
    torch.manual_seed(0)
    network, waveform = PeriodDiscriminator(period, 0.07, 2), waveforms(0)
    logits, features = network(waveform)
    folded = torch.nn.functional.pad(waveform / 0.07, (0, -waveform.shape[1] % period))
    seen = folded.view(2, 1, -1, period)
    for number, layer in enumerate((*network.convolutions, network.last)):
        stride = (3 if number < 4 else 1, 1)
        padding = (layer.kernel_size[0] // 2, 0)
        seen = torch.nn.functional.conv2d(seen, layer.weight[..., None], layer.bias, stride, padding)
        if number < 5:
            seen = torch.nn.functional.leaky_relu(seen, SLOPE)
            torch.testing.assert_close(features[number], seen.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, seen.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    assert [layer.shape[2] for layer in features] == [2, 4, 8, 16, 16]


def test_windows_and_periods_hear_together():
    said = replace(CONFIG.discriminator, start=0, periods=(2, 3), period_filters=2)
    discriminator = Discriminator(said, 0.07, CONFIG.crop)
    logits, features = discriminator(waveforms(0))
    assert [len(one) for one in (logits, features)] == [4, 4]
    assert all(0.1 < one.std().item() < 10 for one in logits)
    paired = torch.tensor([True, False])
    _, others = discriminator(torch.cat([waveforms(0)[:1], waveforms(1)[1:]]))
    assert float(feature_distance(features, others, paired)) == 0.0 < float(feature_distance(features, others))
    alone = Discriminator(replace(said, windows=()), 0.07, CONFIG.crop)
    assert len(alone(waveforms(0))[0]) == 2
    with pytest.raises(ValueError, match="are empty"):
        replace(said, windows=(), periods=())


def test_losses_are_those_of_the_paper():
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 1.0])]
    assert float(telling_loss(real, fake)) == pytest.approx(0.25 + 1.0)
    assert float(fooling_loss(fake)) == pytest.approx(2.0)
    given, made = [[torch.tensor([1.0, -3.0])]], [[torch.tensor([2.0, -3.0])]]
    assert float(feature_distance(given, made)) == pytest.approx(0.5 / 2.0)
    assert float(feature_distance(given, given)) == 0.0


def test_a_discriminator_learns_to_tell_and_its_codec_to_fool():
    """Noise against a tone: the discriminator's loss falls; and the gradient at the waveform fools it."""
    torch.manual_seed(0)
    alone = {"mel_weight": 0.0, "waveform_weight": 0.0, "feature_weight": 0.0}
    config = replace(CONFIG, discriminator=replace(CONFIG.discriminator, update_share=1.0, **alone))
    objective = Objective(config).train()
    optimizer = make_optimizer(list(objective.adversary.parameters()), replace(config.training, learning_rate=3e-3))
    tone = (0.1 * torch.sin(torch.arange(CONFIG.crop) * 0.1)).repeat(2, 1)
    made = torch.nn.Parameter(waveforms(1))
    told = []
    for step in range(4, 24):
        made.grad = None
        loss, metrics = objective(made, tone, step)
        loss.backward()
        told.append(float(metrics["discriminator"]))
        if step < 23:
            optimizer.step()
            optimizer.zero_grad()
    assert told[-1] < 0.5 * told[0]
    with torch.no_grad():
        looks = [objective.adversary.discriminator(w)[0] for w in (made, made - 1e-3 * made.grad)]
    assert float(fooling_loss(looks[1])) < float(fooling_loss(looks[0]))


def test_before_the_start_nothing_is_changed_and_after_it_the_value_is_still_the_distance():
    torch.manual_seed(0)
    objective = Objective(CONFIG).train()
    plain = Objective(replace(CONFIG, discriminator=DiscriminatorConfig())).train()
    given, made = waveforms(0), waveforms(1).requires_grad_()
    expected = plain(made, given, 1)[0].item()
    for step in (3, 4):
        loss, metrics = objective(made, given, step)
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        assert ("adversarial" in metrics) == (step > 3)
    assert objective.eval()(made, given, 4)[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("paired", [[True, False], [False, False]])
def test_rows_that_are_no_pair_are_judged_by_the_discriminator_alone(paired):
    """No distance reaches them, and their distance is not told; what a pair is told does not depend on them."""
    torch.manual_seed(0)
    rows = torch.tensor(paired)
    without = replace(CONFIG.discriminator, adversarial_weight=0.0)
    for said, reached in ((without, paired), (CONFIG.discriminator, [True, True])):
        objective = Objective(replace(CONFIG, discriminator=said)).train()
        for step in (3, 4):  # before the discriminator has begun, and after
            made = waveforms(1).requires_grad_()
            loss, metrics = objective(made, waveforms(0), step, rows)
            loss.backward()
            assert loss.isfinite() and made.grad is not None
            expected = reached if step > 3 else paired
            assert [float(row.norm()) > 0 for row in made.grad] == expected
            plain = Objective(replace(CONFIG, discriminator=DiscriminatorConfig()))
            alone = plain(made[:1], waveforms(0)[:1], 1)
            wanted = float(alone[1]["mel"]) if any(paired) else math.nan
            assert float(metrics["mel"]) == pytest.approx(wanted, rel=1e-5, nan_ok=True)
            if step == 3 and any(paired):  # the gradient of a mean over all rows
                (lone,) = torch.autograd.grad(alone[0], made)
                assert torch.allclose(made.grad, lone / 2, atol=1e-7)


def test_the_discriminator_learns_in_its_share_of_the_steps():
    torch.manual_seed(0)
    objective = Objective(CONFIG).train()
    learnt = []
    for step in range(4, 10):
        made = waveforms(step).requires_grad_()
        loss, _ = objective(made, waveforms(0), step)
        loss.backward()
        assert made.grad is not None and float(made.grad.norm()) > 0
        touched = {parameter.grad is not None for parameter in objective.adversary.parameters()}
        assert len(touched) == 1
        learnt.append(touched.pop())
        objective.zero_grad(set_to_none=True)
    assert learnt == [False, True, False, True, False, True]
    two_thirds = replace(CONFIG, discriminator=replace(CONFIG.discriminator, update_share=2 / 3))
    adversary = Objective(two_thirds).adversary
    assert sum(adversary.learns(step) for step in range(4, 304)) == 200


def test_at_first_the_discriminator_learns_alone():
    torch.manual_seed(0)
    config = replace(CONFIG, discriminator=replace(CONFIG.discriminator, alone_steps=2))
    objective, plain = Objective(config).train(), Objective(replace(CONFIG, discriminator=DiscriminatorConfig()))
    for step, alone in ((4, True), (5, True), (6, False)):
        made = waveforms(1).requires_grad_()
        loss, metrics = objective(made, waveforms(0), step)
        loss.backward()
        assert ("adversarial" not in metrics) == alone and "discriminator" in metrics
        if alone:
            (expected,) = torch.autograd.grad(plain(made, waveforms(0), step)[0], made)
            assert torch.equal(made.grad, expected)
            assert all(parameter.grad is not None for parameter in objective.adversary.parameters())


def test_a_new_discriminator_has_something_to_say():
    torch.manual_seed(0)
    logits, _ = Discriminator(replace(CONFIG.discriminator, filters=8), 0.07, CONFIG.crop)(waveforms(0))
    assert all(0.1 < one.std().item() < 10 for one in logits)
