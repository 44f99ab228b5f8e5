"""What a user can say about the training of a codec. Knows no tensor."""

import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from triptych.training.config import STRICT, TrainingConfig
from triptych.training.precision import Dtype


@dataclass(frozen=True, config=STRICT)
class DiscriminatorConfig:
    """The adversary of a codec (EnCodec, Défossez et al. 2022, sections 3.4 and 4.1), and how much each loss weighs."""

    start: int | None = None
    """steps before it begins; null: there is none"""
    alone_steps: int = 500
    """steps in which it learns and the codec does not listen to it yet: what it says at first is noise"""
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """samples, of the spectrogram that each sub-network sees; hop a quarter"""
    periods: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """samples; for each, one more sub-network sees every so-manieth sample (HiFi-GAN, Kong et al. 2020, section 2.3:
    2, 3, 5, 7, 11). They tell more than windows do, and an hour against them taught the starter's decoder nothing that
    is heard (configs/starter/LOG.md)"""
    compression: Annotated[float, Field(gt=0, le=1)] = 1.0
    """power to which the spectrum's magnitudes are raised, phases kept; 1: EnCodec's. With 0.3 what is faint is seen
    beside what is loud, and with a higher rate the discriminator learns much faster (configs/starter/LOG.md)"""
    floor: Annotated[float, Field(gt=0)] = 0.05
    """magnitude, where speech has about 1, below which all is raised alike: there recordings differ in their noise
    alone"""
    filters: int = 32
    """channels of each sub-network of a window; 8 is what a CPU affords"""
    period_filters: Annotated[int, Field(ge=1)] = 16
    """channels of the first layer of each of a period; each layer has twice as many, eight times at most. HiFi-GAN has
    32 and more"""
    windows_a_step: Annotated[int, Field(ge=0)] = 0
    """sub-networks, of windows and periods, drawn anew at each step after alone_steps, that hear it and learn; 0: all.
    On a CPU the discriminator is most of a step"""
    learning_rate: float = 3e-4
    """the peak of its own AdamW; warm-up and cosine are those of training"""
    betas: tuple[float, float] = (0.5, 0.9)
    """of its own AdamW"""
    update_share: float = 2 / 3
    """share of the steps in which it learns; below 1 the codec keeps up with it"""
    mel_weight: float = 1.0
    """of the log-mel distance, in the gradient at the waveform (balancer)"""
    waveform_weight: float = 0.1
    """of the L1 distance, likewise; it takes the place of the other waveform_weight once the discriminator begins"""
    adversarial_weight: float = 3.0
    """of the hinge loss, likewise"""
    feature_weight: float = 3.0
    """of feature matching, likewise"""
    ear_weight: float = 3.0
    """of what the ear says, likewise, where there is one; it takes the place of the other ear_weight"""
    balance_decay: float = 0.999
    """of the moving averages of the gradients' norms"""
    balance_norm: float = 5.0
    """of the balanced gradient at each waveform; 5 is about what the plain distances have, so that commitment_weight
    means the same before and after the start"""

    def __post_init__(self) -> None:
        every = len(self.windows) + len(self.periods)
        if self.windows_a_step > every:
            raise ValueError(
                f"discriminator.windows_a_step={self.windows_a_step}: windows and periods are {every} in all"
            )
        if not every:
            raise ValueError("discriminator.windows and discriminator.periods are empty: give one of them")


@dataclass(frozen=True, config=STRICT)
class PostfilterConfig:
    """A network that mends the spectrum of what a decoder makes (postfilter.py)."""

    layers: Annotated[int, Field(ge=0)] = 0
    """ConvNeXt blocks; 0: there is none"""
    dim: Annotated[int, Field(ge=1)] = 128
    """width"""
    hidden: Annotated[int, Field(ge=1)] = 320
    """width within a block"""
    window: Annotated[int, Field(ge=8)] = 720
    """samples, of the spectrum; 30 ms at 24 kHz"""
    hop: Annotated[int, Field(ge=1)] = 240
    """samples from one spectrum to the next; a third of the window or less"""

    def __post_init__(self) -> None:
        if self.hop * 3 > self.window:
            raise ValueError(f"postfilter.hop={self.hop}: at most a third of postfilter.window={self.window}")


@dataclass(frozen=True, config=STRICT)
class CodecFitConfig:
    """An EnCodec, and how it is trained."""

    init: str | None = None
    """a causal EnCodec (folder or hub id) to go on with, all of it: encoder, codebooks, decoder and post-filter, in the
    shape that it has: sample_rate, ratios, levels and codebook_size say the same, and filters, hidden, lstm_layers,
    padding and shortcut are not looked at. Its codes change on the way, so what is tokenized begins anew"""
    decoder_of: str | None = None
    """a codec (folder or hub id) whose decoder, post-filter or both are trained on: its codes, and all that was made of
    them, stay"""
    decoder_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """with `decoder_of`: of what was trained in the weights that are saved; the rest are those that it began with
    (WiSE-FT, Wortsman et al. 2022). It keeps what a discriminator gains, without the words that it costs. A post-filter
    that is new began with nothing: there it must be 1"""
    postfilter: PostfilterConfig = PostfilterConfig()
    """with `decoder_of`: layers above 0 train a post-filter of what that decoder makes; the decoder stays as it is
    without decoder_too. With `init`: it learns with the rest"""
    decoder_too: bool = False
    """with `decoder_of` and a post-filter: the decoder learns as well, together with it"""
    training: TrainingConfig = TrainingConfig(
        max_steps=20_000, learning_rate=5e-4, final_ratio=0.02, betas=(0.8, 0.99), weight_decay=0.01, warmup_steps=200
    )
    """steps, rates, precision"""
    sample_rate: int = 24_000
    """Hz"""
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    """upsampling factors of the decoder, from codes to samples; their product is the hop"""
    filters: int = 32
    """channels at the highest rate; doubled at each factor"""
    hidden: int = 128
    """width of the latent that is quantised"""
    lstm_layers: int = 2
    """layers of the LSTM on either side"""
    padding: Literal["reflect", "constant"] = "reflect"
    """of the convolutions; constant is faster on a CPU"""
    shortcut: bool = True
    """a convolution on the shortcut of each residual block; without, the plain sum, which is faster"""
    levels: int = 8
    """of the residual quantizer"""
    codebook_size: int = 1024
    """entries of a level"""
    favoured_levels: Annotated[int, Field(ge=1)] | None = None
    """levels that half of the crops keep, where a cascade decodes fewer than all (its `levels=`); none: no number is"""
    guesses: str | None = None
    """codes of these recordings that a coarse stage guessed (a file of `triptych guess`), with decoder_of: the decoder
    learns to make of them what was recorded, and so what that stage gets wrong; or, where they were guessed after its
    own past (`own_past`), what a discriminator, and an ear, take for a recording: no distance is asked for there"""
    guessed_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """share of the crops that are decoded from guesses, where their recording has some"""
    crop_seconds: float = 1.0
    """length of a training crop"""
    batch: int = 16
    """crops a micro-batch, on each rank"""
    gain_db: float = 3.0
    """each crop is made louder or quieter by up to this much"""
    unquantised_steps: int = 500
    """steps before the codebooks start; with `init` they have begun"""
    reservoir: int = 16_384
    """latent frames from which they start"""
    mel_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    """samples, of the log-mel distance; hop a quarter"""
    waveform_weight: float = 0.5
    """of the L1 distance, relative to the loudness of the crop"""
    ear: str | None = None
    """a semantic tokenizer (folder) whose encoder hears what is made and what was given; how far its hidden states, and
    the phonemes that it hears, are apart is a loss beside the others: words, where few levels are decoded"""
    ear_weight: float = 1.0
    """of that loss"""
    commitment_weight: float = 0.25
    """of the distance from latent to codebook"""
    decay: float = 0.99
    """of the moving averages of the codebooks"""
    usage_steps: int = 50
    """newest steps over which the use of each level is counted"""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """what makes the sound natural beyond the distances; off by default"""
    compile: bool = False
    """encoder and decoder through torch.compile in training; it costs a minute or more of compiling at the start"""
    dtype: Dtype = "fp32"
    """of its encoder when it tokenizes: bf16 is faster and gives other codes; part of the fingerprint"""
    validation_clips: Annotated[int, Field(ge=1)] = 16
    """held-out clips that are coded at each validation"""

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.ratios)

    @property
    def crop(self) -> int:
        """Samples of a training crop: whole frames."""
        return int(self.crop_seconds * self.sample_rate) // self.hop * self.hop
