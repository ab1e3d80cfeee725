"""Checkpoint folders of stem encoders: config.json, model.safetensors and, optionally, the codec.

config.json   {"format_version": 1, "architecture": "stem_encoder", "options": {...},
               "stem": ..., "input": ..., "codec": NAME or "codec/", "codec_id": ..., ...}
"""

from dataclasses import asdict
from pathlib import Path

from mssgen.checkpoints.blueprints import filled
from mssgen.checkpoints.folders import write_checkpoint
from mssgen.checkpoints.formats import (
    CONFIG,
    EMBEDDED_CODEC,
    WEIGHTS,
    checked_tensors,
    read_config,
    read_safetensors,
)
from mssgen.codecs.loading import is_codec_name, load_codec, save_codec
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.errors import CheckpointError, MssgenError
from mssgen.files import reported
from mssgen.recipes.schema import checked_options

ARCHITECTURE = "stem_encoder"
_IDENTITY = ("stem", "input")


def save_stem_encoder(encoder: StemEncoder, folder: Path, *, codec_name: str = "") -> None:
    """Write a checkpoint folder for `load_stem_encoder`; config.json is written last.

    Args:
        encoder: on any device.
        folder: created if it does not exist; files of an older checkpoint are replaced.
        codec_name: name of the codec in the registry; "": save the codec in the subfolder codec/.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    codec, options = encoder.codec, asdict(encoder.options)
    config = {
        "architecture": ARCHITECTURE,
        **{key: options.pop(key) for key in _IDENTITY},
        "options": options,
        "codec": codec_name or EMBEDDED_CODEC,
        "codec_id": codec.codec_id,
        "sample_rate": codec.sample_rate,
        "n_codebooks": encoder.n_codebooks,
    }
    with reported(folder, CheckpointError):
        folder.mkdir(parents=True, exist_ok=True)
        if not codec_name:
            save_codec(codec, folder / EMBEDDED_CODEC)
        write_checkpoint(folder, encoder.state_dict(), config)


def load_stem_encoder(
    folder: Path | str, *, device: str = "cpu", offline: bool = False
) -> StemEncoder:
    """Load a stem encoder and its codec, both frozen and in eval mode.

    Args:
        folder: the checkpoint folder.
        device: device of encoder and codec, as in `load_codec`.
        offline: never access the hub for the codec.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind, or the codec is not the one
            that the encoder was trained for.
        UsageError: a package that the codec needs is not installed.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}, so it is not a stem encoder")
    config = read_config(folder / CONFIG, "enhance")
    name, codec_id = config.get("codec"), config.get("codec_id")
    is_named = name == EMBEDDED_CODEC or is_codec_name(name)
    if not isinstance(name, str) or not isinstance(codec_id, str) or not is_named:
        raise CheckpointError(f"{folder / CONFIG} does not name its codec: get the file again")
    place = str(folder / EMBEDDED_CODEC) if name == EMBEDDED_CODEC else name
    codec = load_codec(place, device=device, offline=offline)
    if codec.codec_id != codec_id:
        raise CheckpointError(
            f"{folder} was trained for the codec {codec_id:.80}, but the codec found as {name} "
            f"is {codec.codec_id}: use the checkpoint with the codec that it was trained for"
        )
    path = folder / WEIGHTS
    state = checked_tensors(path, read_safetensors(path)[1])
    try:
        identity = {key: config[key] for key in _IDENTITY if key in config}
        given = {**identity, **config["options"]}
        options = StemEncoderOptions(
            **checked_options(StemEncoderOptions, given, str(folder / CONFIG))
        )
        if options.n_layers > len(state):  # each has tensors; do not build what cannot fit
            raise ValueError(f"there are no {options.n_layers} layers")
        encoder = filled(lambda: StemEncoder(codec, options), state)
    except CheckpointError:
        raise
    except (MssgenError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder} does not fit its own {CONFIG} ({reason}): get the checkpoint again"
        ) from None
    encoder.eval().requires_grad_(False)
    return encoder.to(device)
