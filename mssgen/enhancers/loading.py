"""Load enhancers: trained stem encoders or a codec's own, with or without refiners."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from mssgen.checkpoints.formats import CONFIG, read_config
from mssgen.checkpoints.registry import REGISTRY, shipped_encoders
from mssgen.checkpoints.resolving import embedded_checkpoint, resolve
from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec
from mssgen.devices import choose_device
from mssgen.encoders.files import load_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.errors import UsageError
from mssgen.memory import tells_of_memory
from mssgen.refiners.files import load_refiner
from mssgen.refiners.masked_transformer import MaskedTransformer
from mssgen.refiners.refine import Refinement, Refiner

_TRAINED_ON = {
    "mixture": "mixtures",
    "separated": "separated stems",
    "separated+mixture": "separated stems and their mixtures",
    "noisy": "noisy stems",
    "clean": "clean stems",
}
_PARAMETERS = {"c2f": "refiner", "coarse": "coarse_refiner"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refining:
    """The refiners of an encoder's codes, and their options; UsageError for contradictions."""

    options: Refinement
    c2f: str | None = None
    """Checkpoint of the coarse-to-fine network: a path (also VampNet's `c2f.pth`), a name, or
    hf://OWNER/NAME; None takes the one that ships for the stem."""
    coarse: str | None = None
    """Checkpoint of the coarse network, given the same way; for the mode "coarse+c2f" only."""

    def __post_init__(self) -> None:
        if self.coarse is not None and self.options.mode == "c2f":
            raise UsageError(
                '`coarse_refiner` is of no use with `refine="c2f"`, which keeps the coarse codes: '
                'use `refine="coarse+c2f"`'
            )

    def refiner(
        self, codec: Codec, stem: str, *, offline: bool = False, progress: bool = False
    ) -> Refiner:
        """Load the refiner for a stem's codes onto the codec's device.

        Raises:
            UsageError: no refiner is named and none ships, or the networks do not support the
                options.
            CheckpointError: a network is out of reach, damaged, untrusted or for another codec.
        """
        load = partial(_load_network, codec=codec, stem=stem, offline=offline, progress=progress)
        coarse = load(self.coarse, "coarse") if self.options.mode == "coarse+c2f" else None
        return Refiner(codec, load(self.c2f, "c2f"), coarse=coarse, options=self.options)


def default_mode(refining: Refining | None, models: Iterable[str]) -> str:
    """The mode of the blend in which the models that were asked for are heard.

    "full" with refiners, or with encoders or codecs (names or paths) other than the encoders that
    ship; those "auto" was made for.
    """
    is_own = not set(models) <= set(shipped_encoders().values())
    return "full" if refining is not None or is_own else "auto"


@tells_of_memory("loading the model")
def load_enhancer(
    checkpoint: str,
    *,
    hears: str,
    stem: str | None = None,
    refining: Refining | None = None,
    device: str = "auto",
    offline: bool = False,
    progress: bool = False,
) -> CodecEnhancer:
    """Load a trained stem encoder and its codec.

    Args:
        checkpoint: a path, or a name from `mssgen models list`.
        hears: the encoder's input: "mixture" to separate with it, "separated" to enhance stems.
        stem: the stem that it must be for; None accepts any.
        refining: refiners of its codes; None for no refinement.
        device, offline, progress: as in `mssgen.load_separator`.

    Raises:
        UsageError: the encoder is for another stem or kind of input, or no refiner fits.
        CheckpointError: the encoder, its codec or a refiner is out of reach, damaged or untrusted.
    """
    chosen = str(choose_device(device))
    resolved = resolve(checkpoint, offline=offline, progress=progress, stage="enhance")
    encoder = load_stem_encoder(resolved.paths[0], device=chosen, offline=offline)
    options = encoder.options
    if stem is not None and options.stem != stem:
        raise UsageError(f"{checkpoint} was trained for the stem {options.stem}, not for {stem}")
    if (options.input == "mixture") != (hears == "mixture"):
        verb = "separate" if options.input == "mixture" else "enhance"
        raise UsageError(
            f"{checkpoint} was trained on {_TRAINED_ON[options.input]}, not on "
            f"{_TRAINED_ON[hears]}: use it as `encoder` of `mssgen {verb}`"
        )
    return _enhancer(encoder, checkpoint, refining, offline=offline, progress=progress)


@tells_of_memory("loading the model")
def load_codec_enhancer(
    codec: str,
    *,
    stem: str,
    refining: Refining | None = None,
    device: str = "auto",
    offline: bool = False,
    progress: bool = False,
) -> CodecEnhancer:
    """Load a codec as an enhancer with its own, untrained encoder.

    For refiners: they then rewrite the codes of the separated stem itself (thesis, section 7.2,
    experiments 1 and 2). `codec` is a name or a path; other arguments and errors are those of
    `load_enhancer`.
    """
    loaded = load_codec(codec, device=device, offline=offline, progress=progress)
    # Without training, the stem encoder is a copy of the codec's.
    encoder = StemEncoder(loaded, StemEncoderOptions(stem=stem)).eval().requires_grad_(False)
    return _enhancer(encoder, codec, refining, offline=offline, progress=progress)


def _enhancer(
    encoder: StemEncoder,
    name: str,
    refining: Refining | None,
    *,
    offline: bool,
    progress: bool,
) -> CodecEnhancer:
    refiner = None
    if refining is not None:
        stem = encoder.options.stem
        refiner = refining.refiner(encoder.codec, stem, offline=offline, progress=progress)
    return CodecEnhancer(encoder, name=name, refiner=refiner)


def _load_network(
    checkpoint: str | None,
    network: str,
    *,
    codec: Codec,
    stem: str,
    offline: bool,
    progress: bool,
) -> MaskedTransformer:
    """Load the network "c2f" or "coarse" onto the codec's device."""
    checkpoint = checkpoint or _shipped(network, codec, stem)
    resolved = resolve(checkpoint, offline=offline, progress=progress, stage="refine")
    device = codec.device
    warn: Callable[[str], None] = _log.warning
    return load_refiner(
        resolved.paths[0],
        codec=codec,
        device=str(device),
        # On a CPU, codes depend on the batch size except in fp32; on a GPU all batches are full.
        precision="fp32" if device.type == "cpu" else "auto",
        warn=warn,
    )


def _shipped(network: str, codec: Codec, stem: str) -> str:
    """The name of the network that ships for a stem's codes: c2f_bass, coarse_bass, and so on."""
    name = f"{network}_{stem}"
    folder = embedded_checkpoint(name) if name in REGISTRY else None
    if folder is None or read_config(folder / CONFIG, "refine").get("codec_id") != codec.codec_id:
        raise UsageError(
            f"no {network} refiner ships for the stem {stem} and the codec {codec.name}: give one "
            f"of yours with `{_PARAMETERS[network]}`"
        )
    return name
