"""Enhancers from checkpoints: stem encoders, codecs as they are, and refiners behind either."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mssgen.checkpoints.formats import CONFIG, read_config
from mssgen.checkpoints.registry import REGISTRY
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

_HEARD = {
    "mixture": "mixtures",
    "separated": "separated stems",
    "separated+mixture": "separated stems and their mixtures",
    "noisy": "noisy stems",
    "clean": "clean stems",
}
_OPTIONS = {"c2f": "--refiner", "coarse": "--coarse-refiner"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refining:
    """Which refiners rewrite the codes of an encoder, and how; contradictions raise UsageError."""

    options: Refinement
    c2f: str | None = None
    """A checkpoint: a path (VampNet's `c2f.pth` too), a name, or hf://OWNER/NAME; None takes the
    one that ships for the stem."""
    coarse: str | None = None
    """The same, where the options' mode has this network."""

    def __post_init__(self) -> None:
        if self.coarse is not None and self.options.mode == "c2f":
            raise UsageError(
                "--coarse-refiner is of no use with --refine c2f, which keeps the coarse codes: "
                "write --refine coarse+c2f"
            )

    def refiner(
        self, codec: Codec, stem: str, *, offline: bool = False, progress: bool = False
    ) -> Refiner:
        """The refiner for a stem's codes, on the codec's device.

        Raises:
            UsageError: no refiner is named and none ships, or the options do not fit the networks.
            CheckpointError: a network is out of reach, damaged, untrusted or for another codec.
        """
        load = partial(_load_network, codec=codec, stem=stem, offline=offline, progress=progress)
        coarse = load(self.coarse, "coarse") if self.options.mode == "coarse+c2f" else None
        return Refiner(codec, load(self.c2f, "c2f"), coarse=coarse, options=self.options)


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
        hears: "mixture", to separate with it, or "separated", to enhance stems with it.
        stem: the stem that is wanted; None takes any.
        refining: what rewrites its codes.
        device, offline, progress: as in `mssgen.load_separator`.

    Raises:
        UsageError: it was trained for another stem or another kind of input, or there is no
            fitting refiner.
        CheckpointError: it, its codec or a refiner is out of reach, damaged or untrusted.
    """
    chosen = str(choose_device(device))
    resolved = resolve(checkpoint, offline=offline, progress=progress, stage="enhance")
    encoder = load_stem_encoder(resolved.paths[0], device=chosen, offline=offline)
    options = encoder.options
    if stem is not None and options.stem != stem:
        raise UsageError(f"{checkpoint} was trained for the stem {options.stem}, not for {stem}")
    if (options.input == "mixture") != (hears == "mixture"):
        verb = "mssgen separate" if options.input == "mixture" else "mssgen enhance"
        raise UsageError(
            f"{checkpoint} was trained to hear {_HEARD[options.input]}, not {_HEARD[hears]}: "
            f"give it to `{verb} --encoder`"
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
    """Load a codec to send stems through it as it is: its own encoder gives the codes.

    So a refiner rewrites a stem's own codes (thesis, section 7.2, experiments 1 and 2). `codec` is
    a name or a path; the rest as in `load_enhancer`, and so are the errors.
    """
    loaded = load_codec(codec, device=device, offline=offline, progress=progress)
    # An encoder that has not learned yet is the codec's own.
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
    """The network called "c2f" or "coarse", where the codec is."""
    checkpoint = checkpoint or _shipped(network, codec, stem)
    resolved = resolve(checkpoint, offline=offline, progress=progress, stage="refine")
    device = codec.device
    warn: Callable[[str], None] = _log.warning
    return load_refiner(
        resolved.paths[0],
        codec=codec,
        device=str(device),
        # Codes are the same for any batch in fp32 only; a GPU's batches are always full.
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
            f"of yours with {_OPTIONS[network]}"
        )
    return name
