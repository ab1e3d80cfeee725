"""How a stem encoder is trained: section [loss] of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

from mssgen.encoders.stem_encoder import StemEncoderOptions
from mssgen.errors import UsageError
from mssgen.training.encoder.losses import Residual
from mssgen.training.optimizers import OptimizerOptions

_OF_SOUND = ("time", "spectrum", "stft")
_LOSSES = ("mse", "levels", "cross_entropy", "residual", "adversarial", *_OF_SOUND)


@dataclass(frozen=True)
class LossOptions:
    """[loss]: weights, which combine freely (0 is off), and how each loss is taken."""

    mse: float = 0.0
    """On latents, but for those that are levels of bands."""
    mse_target: Literal["latents", "quantized"] = "latents"
    """The clean stem's latents before or after quantisation."""
    levels: float = 0.0
    """On those, where the codec has such."""
    cross_entropy: float = 0.0
    """On the tokens of the head."""
    residual: float = 0.0
    """On soft assignments to the codebooks, summed over levels."""
    residual_levels: int | None = None
    """The first so many levels; None: all (of the target)."""
    residual_from: Residual = "expected"
    """What a level leaves to the next (see `residual_loss`); "expected" is the thesis."""
    temperature: float = 1.0
    """Of the soft assignments."""
    temperature_unit: Literal["distance", "codebook"] = "distance"
    """Squared distances in latent space as they are (the thesis), or for each level the mean
    squared distance between neighbouring code vectors."""
    time: float = 0.0
    """On the waveform that the codec's decoder makes of the prediction's codes ..."""
    spectrum: float = 0.0
    """... on its compressed complex spectrum ..."""
    stft: float = 0.0
    """... and on its magnitudes (RAVE's spectral distance), all against the clean stem itself; the
    gradient passes the codes as if they were the latents."""
    stft_windows: tuple[int, ...] = (2048, 512)
    """Samples."""
    adversarial: float = 0.0
    """On a discriminator of latents, which learns beside."""
    balance: bool = False
    """Weights are shares of the gradient with respect to the prediction (EnCodec's balancer), not
    factors of the losses."""
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    """Of every module that learns; the thesis used Adam at 1e-3, at times 1e-4."""

    def __post_init__(self) -> None:
        weights = self.weights.values()
        if min(weights) < 0 or max(weights) == 0:
            raise UsageError(
                f"the weights of the losses ({', '.join(_LOSSES)}) must not be negative, nor all "
                "0: give at least one"
            )
        if self.temperature <= 0:
            raise UsageError(f"loss.temperature must be more than 0, not {self.temperature:g}")

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses, by name."""
        return {name: getattr(self, name) for name in _LOSSES}

    @property
    def is_of_levels(self) -> bool:
        """Whether the levels of bands are all that is learned."""
        others = (self.mse, self.cross_entropy, self.residual, self.adversarial)
        return self.levels > 0 and max(others) == 0 and not self.needs_sound

    @property
    def needs_sound(self) -> bool:
        """Whether a loss listens to what is decoded."""
        return any(getattr(self, name) > 0 for name in _OF_SOUND)

    def check_with(self, model: StemEncoderOptions) -> None:
        """Raise UsageError where a loss could not teach this model."""
        if bool(self.cross_entropy) != model.gives_tokens:
            raise UsageError(
                "loss.cross_entropy and a head that gives tokens need each other: set both, "
                "or neither"
            )
        on_latents = (self.mse, self.levels, self.residual, self.adversarial)
        pulls_latents = self.needs_sound or max(on_latents) > 0
        if model.encoder == "frozen" and model.gives_tokens and pulls_latents:
            raise UsageError(
                "losses on latents and on their sound teach the encoder here, and it is frozen: "
                "set them to 0, or use encoder = 'warm'"
            )
        if model.n_target_codebooks and self.mse and self.mse_target == "latents":
            raise UsageError(
                "n_target_codebooks needs mse_target = 'quantized': latents before quantisation "
                "have no levels"
            )
