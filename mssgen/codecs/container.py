"""`.codes` files: a safetensors file with the tokens of a song and what it takes to decode them.

Tensors: `codes` [B, K, N] uint16 and, of codecs that scale, `scale` [B, G] float32. Metadata, all
strings: `format` "mssgen-codes", `format_version`, and the fields of `CodedAudio`. Version 1.1 has
`gain` and `layout`; a file that needs neither is of version 1.
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
_MAX_HOP = 2**15  # samples a frame, of any codec
_MAX_CHANNELS = 1024
_MAX_SILENT_SAMPLES = 2**28  # an hour and a half at 44.1 kHz
_DTYPES = frozenset({"U16", "F32"})


@dataclass(frozen=True)
class CodedAudio:
    """A song as codes; the items of the batch are its channels as `channels.to_items` makes them.

    An item that was digital silence throughout is not in the codes: decoding gives silence again.
    """

    codes: Codes
    codec: str
    """The codec's name, to find it again; `codes.codec_id` says whether it is the right one."""
    sample_rate: int
    """Hz, of the sound file."""
    n_channels: int
    """Of the sound file."""
    n_samples: int
    """Of the sound file, at its rate."""
    n_items: int
    """Items of the batch, the silent ones counted."""
    silent: tuple[int, ...] = ()
    """Which items are silent."""
    gain: float = 1.0
    """What the sound was multiplied by before it was coded, in all channels; > 0."""
    layout: Layout = ()
    """The speakers of the channels (`mssgen.audio.speakers`); () where unknown."""


def pack(coded: CodedAudio) -> bytes:
    """The bytes of a `.codes` file."""
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
    """Write a `.codes` file, complete or not at all; AudioError says why it cannot be.

    `announce` is told where the complete file is before it gets its name.
    """
    with reported(path, AudioError), whole_file(path) as draft:
        draft.write_bytes(pack(coded))
        if announce is not None:
            announce(draft)


def read_codes(path: Path, *, name: str | None = None) -> CodedAudio:
    """Read a `.codes` file; AudioError (naming `name`, the path by default) where it is none."""
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
            f"{name} is no .codes file, or damaged ({error}): encode the song again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise AudioError(f"{name} is no .codes file: `mssgen codec encode` writes such files")
    if metadata.get("format_version") not in FORMAT_VERSIONS:
        raise AudioError(
            f"{name} has the format version {metadata.get('format_version')!s:.20}, and this "
            f"mssgen reads {' and '.join(FORMAT_VERSIONS)}: take a newer one"
        )
    coded = _coded(metadata, tensors)
    if coded is None:
        raise AudioError(f"{name} is damaged: its header does not fit what it holds")
    return coded


def _coded(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> CodedAudio | None:
    """What the file says; None where it contradicts itself."""
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
        return None  # a codec codes channels one by one, or in pairs
    if not n_kept and max(whole["codec_samples"], whole["n_samples"]) > _MAX_SILENT_SAMPLES:
        return None  # no codes are stored, so that nothing but the header says how long it is
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
