"""What a decoder is trained by: distances at first, and a discriminator from some step on.

    before the start     loss = mel distance + waveform_weight · waveform distance
    alone_steps          the same, and the discriminator learns to tell
    from then on         the losses at the waveform (mel, waveform, adversarial, features, ear) ─balancer─▶ one gradient

Both are handed back as one scalar: its value is always the plain distance, so that curves go on, and its gradient is
what the codec and the discriminator shall follow. One backward serves both: the codec's losses reach the waveform
alone, the discriminator's its own weights alone. Invariant: all that it remembers lies in buffers, so resuming is
exact. Knows no clips.
"""

import math

import torch
from torch import Tensor, nn

from triptych.tokenizers.acoustic.balancer import Balancer
from triptych.tokenizers.acoustic.discriminator import Discriminator, feature_distance, fooling_loss, telling_loss
from triptych.tokenizers.acoustic.ear import Ear
from triptych.tokenizers.acoustic.mel import OF_PAIRS, SoundDistance, told
from triptych.tokenizers.acoustic.settings import CodecFitConfig

SPEECH_LEVEL = 0.07
"""root mean square of speech at -23 LUFS"""


class Adversary(nn.Module):
    """The discriminator, the balancer, and when each learns."""

    def __init__(self, config: CodecFitConfig) -> None:
        super().__init__()
        said = config.discriminator
        assert said.start is not None
        self.start, self.heard_after, self.share = said.start, said.start + said.alone_steps, said.update_share
        self.drawn = said.windows_a_step
        self.discriminator = Discriminator(said, SPEECH_LEVEL, config.crop)
        weights = {
            "mel": said.mel_weight,
            "waveform": said.waveform_weight,
            "adversarial": said.adversarial_weight,
            "feature": said.feature_weight,
        } | ({"ear": said.ear_weight} if config.ear else {})
        self.balancer = Balancer(weights, said.balance_norm, said.balance_decay)

    def learns(self, step: int) -> bool:
        """Whether the discriminator learns in this step: evenly spread, and a pure function of the step."""
        if step <= self.heard_after:
            return True
        since = step - self.start
        return math.floor(since * self.share) > math.floor((since - 1) * self.share)

    def _drawn_scales(self) -> list[int] | None:
        """Which windows hear this step, the same on all ranks: from torch's CPU generator. None: all."""
        every = len(self.discriminator.scales)
        return torch.randperm(every)[: self.drawn].tolist() if 0 < self.drawn < every else None

    def learn(self, made: Tensor, given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A zero with the gradients of the discriminator alone, and its loss."""
        telling = telling_loss(self.discriminator(given)[0], self.discriminator(made.detach())[0])
        return telling - telling.detach(), {"discriminator": telling.detach()}

    def forward(
        self, made: Tensor, given: Tensor, distance: SoundDistance, step: int, paired: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A zero with the gradients of both sides, and metrics; waveforms [B, N], of which `paired` [B] belong together
        sample by sample: the other rows have neither distance nor features to match."""
        learns = self.learns(step)
        scales = self._drawn_scales()
        leaf = made.detach().requires_grad_()  # what the losses are made of: their gradients end here
        with torch.set_grad_enabled(learns):
            real_logits, real_features = self.discriminator(given, scales)
        fake_logits, fake_features = self.discriminator(leaf, scales)
        parts = distance.parts(leaf, given, paired)
        losses = {
            **parts,
            "adversarial": fooling_loss(fake_logits),
            "feature": feature_distance(real_features, fake_features, paired),
        }
        some = {} if paired is None else dict.fromkeys(OF_PAIRS, int(paired.sum()))
        followed = (made * self.balancer(losses, leaf, some)).sum()
        metrics = told(losses, paired)
        telling = telling_loss(real_logits, fake_logits)
        metrics["discriminator"] = telling.detach()
        if learns:
            followed = followed + telling
        return followed - followed.detach(), metrics


class Objective(nn.Module):
    """`SoundDistance`, and an `Adversary` where the config has one; the rest of the codec need not know which."""

    def __init__(self, config: CodecFitConfig) -> None:
        super().__init__()
        ear = Ear.load(config.ear, config.sample_rate) if config.ear else None
        windows = config.mel_windows
        self.distance = SoundDistance(config.sample_rate, windows, config.waveform_weight, ear, config.ear_weight)
        self.adversary = Adversary(config) if config.discriminator.start is not None else None

    def forward(
        self, made: Tensor, given: Tensor, step: int, paired: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of waveforms [B, N] at a step (from 1), and what to log; paired: `Adversary.forward`."""
        adversary = self.adversary if self.training else None
        if adversary is not None and step > adversary.heard_after:
            gradients, metrics = adversary(made, given, self.distance, step, paired)
            numbers = {name: value.nan_to_num() for name, value in metrics.items()}
            return self.distance.total(numbers) + gradients, metrics
        distance, parts = self.distance(made, given, paired)
        if adversary is None or step <= adversary.start:
            return distance, parts
        gradients, metrics = adversary.learn(made, given)
        return distance + gradients, parts | metrics
