"""Losses of a codec: section [loss] of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

from mssgen.errors import UsageError
from mssgen.recipes.schema import Count, NonNegative, Share
from mssgen.recipes.sections import check_fields
from mssgen.training.codec.discriminators import DiscriminatorOptions
from mssgen.training.optimizers import OptimizerOptions


def _encodec_optimizer() -> OptimizerOptions:
    return OptimizerOptions(lr=3e-4, betas=(0.5, 0.9))


@dataclass(frozen=True)
class CodecLossOptions:
    """Section [loss]: the weight of each loss (0 is off), its settings, and the schedule."""

    time: NonNegative = 0.1
    """Weight of the waveform's L1 error."""
    mel: NonNegative = 1.0
    """Weight of the distance of mel spectra, see `mel_form`."""
    stft: NonNegative = 0.0
    """Weight of RAVE's spectral distance."""
    spectrum: NonNegative = 0.0
    """Weight of the L1 error of compressed complex spectra."""
    levels: NonNegative = 0.0
    """Weight of the L1 error of logarithmic band energies."""
    adversarial: NonNegative = 3.0
    """Weight of the adversarial loss."""
    features: NonNegative = 3.0
    """Weight of feature matching."""
    commitment: NonNegative = 1.0
    """Weight of the quantiser's own loss; never balanced."""
    balance: bool = True
    """True: weights are shares of the gradient (EnCodec's balancer); False: weights multiply the
    losses."""
    mel_form: Literal["encodec", "soundstream", "dac"] = "encodec"
    """The paper whose distance of mel spectra is used, see `losses.MEL_FORMS`."""
    mel_windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    """Window lengths of `mel`, samples."""
    n_mels: int | tuple[int, ...] = 64
    """Number of mel bands: one number, or one for each window."""
    stft_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Window lengths of `stft`, samples."""
    gan: Literal["hinge", "least_squares"] = "hinge"
    """Form of the adversarial loss, see `losses.GAN_LOSSES`."""
    relative_features: bool = True
    """Whether feature matching is relative to the features' magnitude."""
    adversarial_after: int = 0
    """First step with discriminators."""
    discriminator_lead: Count = 0
    """Number of steps from then on in which only the discriminators learn, before their losses
    reach the codec."""
    discriminator_s: NonNegative = 0.0
    """Length of the random excerpt of each segment that discriminators get, seconds; 0: all."""
    freeze_encoder_after: int | None = None
    """First step in which only the decoder learns (RAVE's second stage); None: never."""
    discriminator_share: Share = 1.0
    """Share of the steps in which the discriminators learn, evenly spread."""
    quantizer_dropout: Share = 1.0
    """Share of the steps that use a number of codebooks drawn from `dropout_levels`, if not empty.
    """
    dropout_levels: tuple[int, ...] = ()
    """Numbers of codebooks to draw from."""
    dead_code_share: float = 0.1
    """Codes used less than this share of the mean use are replaced (moving averages)."""
    start_segments: Count = 0
    """Number of segments from which a stem codec is initialised; 0: random weights."""
    discriminator: DiscriminatorOptions = field(default_factory=DiscriminatorOptions)
    optimizer: OptimizerOptions = field(default_factory=_encodec_optimizer)
    discriminator_optimizer: OptimizerOptions = field(default_factory=_encodec_optimizer)

    def __post_init__(self) -> None:
        check_fields(self, "loss")
        if max(self.time, self.mel, self.stft, self.spectrum) == 0:
            raise UsageError("a codec needs a distance to learn from: time, mel, stft or spectrum")
        if not isinstance(self.n_mels, int) and len(self.n_mels) != len(self.mel_windows):
            raise UsageError("loss.n_mels must be one number, or as many as loss.mel_windows")

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the losses on the output, by name."""
        names = ("time", "mel", "stft", "spectrum", "levels", "adversarial", "features")
        return {name: getattr(self, name) for name in names}

    @property
    def is_adversarial(self) -> bool:
        """Whether there are discriminators."""
        return max(self.adversarial, self.features) > 0
