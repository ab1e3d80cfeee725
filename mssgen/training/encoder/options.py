"""Losses of a stem encoder: section [loss] of a recipe."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from mssgen.encoders.stem_encoder import StemEncoderOptions
from mssgen.errors import UsageError
from mssgen.recipes.schema import NonNegative
from mssgen.recipes.sections import check_fields
from mssgen.training.encoder.losses import Residual
from mssgen.training.optimizers import OptimizerOptions

_ON_AUDIO = ("time", "spectrum", "stft")
_LOSSES = ("mse", "levels", "cross_entropy", "residual", "adversarial", *_ON_AUDIO)


@dataclass(frozen=True)
class LossOptions:
    """Section [loss]: the weight of each loss, of which any can be combined (0 is off)."""

    mse: NonNegative = 0.0
    """Weight of the mean squared error of latents, without the band-energy latents."""
    mse_target: Literal["latents", "quantized"] = "latents"
    """Target of `mse`: the clean stem's latents before or after quantisation."""
    levels: NonNegative = 0.0
    """Weight of the L1 error of band-energy latents; ignored for codecs that have none."""
    cross_entropy: NonNegative = 0.0
    """Weight of the cross-entropy of the head's token logits."""
    residual: NonNegative = 0.0
    """Weight of the cross-entropy of soft assignments to the codebooks, summed over codebooks."""
    residual_levels: int | None = None
    """Number of codebooks in `residual`, from the first; None: all of the target's."""
    residual_from: Residual = "expected"
    """The vector that one codebook subtracts before the next, see `residual_loss`; the thesis used
    "expected"."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the soft assignments, in `temperature_unit`."""
    temperature_unit: Literal["distance", "codebook"] = "distance"
    """"distance": squared distance of latents (the thesis); "codebook": the mean squared distance
    between neighbouring code vectors of each codebook."""
    time: NonNegative = 0.0
    """Weight of the waveform's L1 error, on the audio decoded from the prediction's codes and
    against the clean stem; gradients pass straight through the quantiser to the latents."""
    spectrum: NonNegative = 0.0
    """Weight of the L1 error of compressed complex spectra, on the same audio as `time`."""
    stft: NonNegative = 0.0
    """Weight of RAVE's spectral distance (magnitudes), on the same audio as `time`."""
    stft_windows: tuple[int, ...] = (2048, 512)
    """Window lengths of `stft`, samples."""
    adversarial: NonNegative = 0.0
    """Weight of the adversarial loss, from a discriminator of latents that is trained alongside."""
    balance: bool = False
    """True: weights are shares of the gradient with respect to the prediction (EnCodec's
    balancer); False: weights multiply the losses."""
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    """Optimizer of encoder and discriminator; the thesis used Adam at 1e-3, sometimes at 1e-4."""

    def __post_init__(self) -> None:
        check_fields(self, "loss")
        if not any(self.weights.values()):
            raise UsageError(
                f"every weight of the losses ({', '.join(_LOSSES)}) is 0: set at least one"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weights by name of the loss."""
        return {name: getattr(self, name) for name in _LOSSES}

    @property
    def is_of_levels(self) -> bool:
        """Whether band-energy latents are all that is learned."""
        others = (self.mse, self.cross_entropy, self.residual, self.adversarial)
        return self.levels > 0 and max(others) == 0 and not self.needs_sound

    @property
    def needs_sound(self) -> bool:
        """Whether a loss is taken on decoded audio."""
        return any(getattr(self, name) > 0 for name in _ON_AUDIO)

    def check_with(self, model: StemEncoderOptions) -> None:
        """Raise UsageError for a loss that does not fit this model."""
        if bool(self.cross_entropy) != model.gives_tokens:
            raise UsageError(
                "loss.cross_entropy needs a head that outputs tokens, and such a head needs "
                "loss.cross_entropy: set both, or neither"
            )
        on_latents = (self.mse, self.levels, self.residual, self.adversarial)
        pulls_latents = self.needs_sound or max(on_latents) > 0
        if model.encoder == "frozen" and model.gives_tokens and pulls_latents:
            raise UsageError(
                "with a head that outputs tokens, losses on latents and decoded audio train the "
                "encoder, which is frozen: set them to 0, or use encoder = 'warm'"
            )
        if model.n_target_codebooks and self.mse and self.mse_target == "latents":
            raise UsageError(
                "n_target_codebooks needs mse_target = 'quantized': latents before quantisation "
                "have no codebooks"
            )
