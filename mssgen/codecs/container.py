"""`.codes` files: safetensors files that hold codes and the metadata needed to decode them.

Tensors: `codes` [B, K, N] uint16 and, for codecs that scale, `scale` [B, G] float32. Metadata, all
strings: `format` "mssgen-codes", `format_version`, and the fields of `CodedAudio`. Version 1.1 adds
`gain` and `layout`; files that need neither are written as version 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mssgen.audio.speakers import NAMES, Layout, canonical, pairs_of
from mssgen.checkpoints.safetensors_header import check_header
from mssgen.checkpoints.tensor_files import pack_tensors
from mssgen.codecs.base import Codes
from mssgen.errors import AudioError
from mssgen.files import reported, whole_file

FORMAT = "mssgen-codes"
FORMAT_VERSIONS = ("1", "1.1")
SUFFIX = ".codes"
_MAX_SAMPLES = 2**40
_MAX_RATE = 1_000_000  # Hz
_MAX_HOP = 2**15  # samples per frame, for any codec
_MAX_CHANNELS = 1024
_MAX_SILENT_SAMPLES = 2**28  # an hour and a half at 44.1 kHz
_DTYPES = frozenset({"U16", "F32"})


@dataclass(frozen=True)
class CodedAudio:
    """Codes of one audio file and the facts needed to restore its rate, channels and length.

    Batch items are the channels, or pairs of channels, as `audio.channels.to_items` groups them. An
    item that is digital silence throughout is left out of the codes and decoded as silence.
    """

    codes: Codes
    codec: str
    """Name of the codec, by which it is loaded; `codes.codec_id` then verifies it."""
    sample_rate: int
    """Sample rate of the audio file, Hz."""
    n_channels: int
    """Number of channels of the audio file."""
    n_samples: int
    """Length of the audio file, in samples at its rate."""
    n_items: int
    """Number of batch items, including silent ones."""
    silent: tuple[int, ...] = ()
    """Indices of the silent items, from 0 to `n_items` - 1."""
    gain: float = 1.0
    """Linear gain applied to all channels before coding, > 0; decoding divides by it."""
    layout: Layout = ()
    """Speaker of each channel (`mssgen.audio.speakers`); () if unknown."""


def pack(coded: CodedAudio) -> bytes:
    """Contents of a `.codes` file as bytes."""
    codes = coded.codes
    tensors = {"codes": codes.codes.cpu().to(torch.uint16)}
    if codes.scale is not None:
        tensors["scale"] = codes.scale.float()
    is_plain = coded.gain == 1 and (coded.n_channels <= 2 or not coded.layout)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSIONS[0 if is_plain else 1],
        "codec": coded.codec,
        "codec_id": codes.codec_id,
        "codec_samples": str(codes.n_samples),
        "sample_rate": str(coded.sample_rate),
        "n_channels": str(coded.n_channels),
        "n_samples": str(coded.n_samples),
        "n_items": str(coded.n_items),
        "silent": " ".join(map(str, coded.silent)),
    }
    if not is_plain:
        metadata |= {"gain": repr(coded.gain), "layout": " ".join(coded.layout)}
    return pack_tensors(tensors, metadata)


def write_codes(
    path: Path, coded: CodedAudio, *, announce: Callable[[Path], None] | None = None
) -> None:
    """Write a `.codes` file atomically.

    Args:
        path: the file, replaced if it exists.
        coded: what to write.
        announce: called with the path of the complete temporary file before it is renamed.

    Raises:
        AudioError: the file cannot be written.
    """
    with reported(path, AudioError), whole_file(path) as draft:
        draft.write_bytes(pack(coded))
        if announce is not None:
            announce(draft)


def read_codes(path: Path, *, name: str | None = None) -> CodedAudio:
    """Read a `.codes` file.

    Args:
        path: the file.
        name: name of the file in messages; None: its path.

    Raises:
        AudioError: it does not exist, cannot be read, is damaged, or is not a `.codes` file.
    """
    name = name or str(path)
    try:
        check_header(path, _DTYPES)
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist: check its name") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise AudioError(
            f"{name} is not a .codes file, or is damaged ({error}): encode the audio again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise AudioError(f"{name} is not a .codes file: `mssgen codec encode` writes such files")
    if metadata.get("format_version") not in FORMAT_VERSIONS:
        raise AudioError(
            f"{name} has the format version {metadata.get('format_version')!s:.20}, and this "
            f"mssgen reads {' and '.join(FORMAT_VERSIONS)}: use a newer mssgen"
        )
    coded = _coded(metadata, tensors)
    if coded is None:
        raise AudioError(f"{name} is damaged: its header does not match its tensors")
    return coded


def _coded(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> CodedAudio | None:
    """Contents of a `.codes` file; None if metadata and tensors contradict each other."""
    codes, scale = tensors.get("codes"), tensors.get("scale")
    if codes is None or codes.dtype != np.uint16 or codes.ndim != 3 or min(codes.shape[1:]) < 1:
        return None
    n_kept = len(codes)
    if scale is not None and (
        scale.dtype != np.float32
        or scale.ndim != 2
        or len(scale) != n_kept
        or not np.isfinite(scale).all()
    ):
        return None
    try:
        whole = {
            key: int(metadata[key])
            for key in ("codec_samples", "sample_rate", "n_channels", "n_samples", "n_items")
        }
        silent = tuple(int(word) for word in metadata["silent"].split())
        codec, codec_id = metadata["codec"], metadata["codec_id"]
        gain = float(metadata.get("gain", "1"))
        layout = tuple(metadata.get("layout", "").split())
    except (KeyError, ValueError):
        return None
    if not all(1 <= value <= _MAX_SAMPLES for value in whole.values()):
        return None
    is_layout = not layout or (
        len(layout) == whole["n_channels"] and {*layout} <= {*NAMES} and layout == canonical(layout)
    )
    if not (0 < gain < float("inf") and is_layout and len({*layout}) == len(layout)):
        return None
    n_items, n_channels, n_frames = whole["n_items"], whole["n_channels"], codes.shape[-1]
    if whole["sample_rate"] > _MAX_RATE or whole["codec_samples"] > n_frames * _MAX_HOP:
        return None
    if n_channels > _MAX_CHANNELS or n_items not in (
        n_channels,
        len(pairs_of(layout, n_channels)),
    ):
        return None  # codecs code single channels, or pairs
    if not n_kept and max(whole["codec_samples"], whole["n_samples"]) > _MAX_SILENT_SAMPLES:
        return None  # all silent: the length is in the header only, and nothing else bounds it
    are_items = all(0 <= item < n_items for item in silent) and len(set(silent)) == len(silent)
    if not are_items or n_kept != n_items - len(silent):
        return None
    return CodedAudio(
        codes=Codes(
            torch.from_numpy(codes.astype(np.int64)),
            whole["codec_samples"],
            codec_id,
            None if scale is None else torch.from_numpy(scale),
        ),
        codec=codec,
        sample_rate=whole["sample_rate"],
        n_channels=whole["n_channels"],
        n_samples=whole["n_samples"],
        n_items=n_items,
        silent=silent,
        gain=gain,
        layout=layout,
    )
