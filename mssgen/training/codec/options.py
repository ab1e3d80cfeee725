"""How a codec is trained: section [loss] of a recipe."""

from dataclasses import dataclass, field

from mssgen.errors import UsageError
from mssgen.training.codec.discriminators import DiscriminatorOptions
from mssgen.training.codec.losses import GAN_LOSSES, MEL_FORMS
from mssgen.training.optimizers import OptimizerOptions


def _encodec_optimizer() -> OptimizerOptions:
    return OptimizerOptions(lr=3e-4, betas=(0.5, 0.9))


@dataclass(frozen=True)
class CodecLossOptions:
    """[loss]: weights (0 is off), how each loss is taken, and what happens when."""

    time: float = 0.1
    """On the waveform."""
    mel: float = 1.0
    """On mel spectra."""
    stft: float = 0.0
    """RAVE's spectral distance."""
    spectrum: float = 0.0
    """On compressed complex spectra."""
    levels: float = 0.0
    """On how loud bands are."""
    adversarial: float = 3.0
    features: float = 3.0
    """Feature matching."""
    commitment: float = 1.0
    """The quantiser's own loss; never balanced."""
    balance: bool = True
    """Weights are shares of the gradient (EnCodec's balancer), not factors of the losses."""
    mel_form: str = "encodec"
    """A word of `codec_MEL_FORMS`."""
    mel_windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    """Samples."""
    n_mels: int | tuple[int, ...] = 64
    """Bands: one number, or one for each window."""
    stft_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Samples."""
    gan: str = "hinge"
    """A word of `codec_GAN_LOSSES`."""
    relative_features: bool = True
    """Whether feature matching is relative to the features' magnitude."""
    adversarial_after: int = 0
    """The step from which on there are discriminators ..."""
    discriminator_lead: int = 0
    """... and for so many steps more they learn alone, before the codec hears what they say."""
    discriminator_s: float = 0.0
    """They hear a part of each segment, so many seconds from a random place; 0: all of it."""
    freeze_encoder_after: int | None = None
    """The step from which on only the decoder learns (RAVE's second stage); None: never."""
    discriminator_share: float = 1.0
    """Share of the steps in which the discriminators learn, evenly spread."""
    quantizer_dropout: float = 1.0
    """Share of the steps whose number of levels is drawn from `dropout_levels`, if there are any.
    """
    dropout_levels: tuple[int, ...] = ()
    dead_code_share: float = 0.1
    """A code used less than this, relative to the mean code, is replaced (moving averages)."""
    start_segments: int = 0
    """Start a stem codec from so many segments of music instead of random weights; 0: do not."""
    discriminator: DiscriminatorOptions = field(default_factory=DiscriminatorOptions)
    optimizer: OptimizerOptions = field(default_factory=_encodec_optimizer)
    discriminator_optimizer: OptimizerOptions = field(default_factory=_encodec_optimizer)

    def __post_init__(self) -> None:
        if min(self.weights.values()) < 0 or self.commitment < 0:
            raise UsageError("the weights of the losses must not be negative: use 0 to leave out")
        if max(self.time, self.mel, self.stft, self.spectrum) == 0:
            raise UsageError("a codec needs a distance to learn from: time, mel, stft or spectrum")
        for name in ("start_segments", "discriminator_lead", "discriminator_s"):
            if (number := getattr(self, name)) < 0:
                raise UsageError(f"loss.{name} is {number:g}; use 0 or more")
        for name, known in (("mel_form", MEL_FORMS), ("gan", GAN_LOSSES)):
            if (word := getattr(self, name)) not in known:
                raise UsageError(f"loss.{name} has no '{word}': use one of {', '.join(known)}")
        if not isinstance(self.n_mels, int) and len(self.n_mels) != len(self.mel_windows):
            raise UsageError("loss.n_mels must be one number, or as many as loss.mel_windows")
        for name in ("discriminator_share", "quantizer_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"loss.{name} must be from 0 to 1, not {getattr(self, name):g}")

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses on the output."""
        names = ("time", "mel", "stft", "spectrum", "levels", "adversarial", "features")
        return {name: getattr(self, name) for name in names}

    @property
    def is_adversarial(self) -> bool:
        """Whether there are discriminators at all."""
        return max(self.adversarial, self.features) > 0
