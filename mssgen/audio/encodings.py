"""Output formats: containers and bit depths, their limits and defaults."""

from dataclasses import dataclass
from typing import Any

from mssgen.audio.speakers import Layout
from mssgen.errors import UsageError

BIT_DEPTHS = {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}


@dataclass(frozen=True)
class Container:
    """An output format of libsndfile, with its limits."""

    sndfile_format: str
    codec: str = ""
    """libsndfile's subtype of a lossy codec; "" for uncompressed and lossless formats."""
    bit_depths: tuple[str, ...] = ("16", "24", "32f")
    sample_rates: tuple[int, ...] = ()
    """Allowed rates in Hz; empty allows every rate that mssgen reads."""
    max_channels: int = 64
    settings: tuple[tuple[str, Any], ...] = ()
    """Keyword arguments for `soundfile.SoundFile`."""


_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
# Stems are played alone and processed further, so lossy bit rates are high: Vorbis quality 8
# (270 kbit/s), Opus 270 kbit/s and MP3 320 kbit/s for stereo.
CONTAINERS = {
    "wav": Container("WAV"),
    "flac": Container("FLAC", bit_depths=("16", "24"), max_channels=8),
    "ogg": Container("OGG", "VORBIS", max_channels=8, settings=(("compression_level", 0.2),)),
    "opus": Container(
        "OGG",
        "OPUS",
        sample_rates=_OPUS_RATES,
        max_channels=8,
        settings=(("compression_level", 0.5),),
    ),
    "mp3": Container(
        "MP3",
        "MPEG_LAYER_III",
        sample_rates=_MP3_RATES,
        max_channels=2,
        settings=(("bitrate_mode", "CONSTANT"), ("compression_level", 0.0)),
    ),
    "aiff": Container("AIFF"),
    "caf": Container("CAF"),
    "w64": Container("W64"),
    "raw": Container("RAW", settings=(("endian", "LITTLE"),)),
}


@dataclass(frozen=True)
class Encoding:
    """Container and bit depth of an output file."""

    container: str
    """A key of `CONTAINERS`."""
    bit_depth: str
    """A key of `BIT_DEPTHS`: "16", "24" or "32f"; lossy containers ignore it."""

    @property
    def extension(self) -> str:
        """Suffix of the file name, without the dot."""
        return self.container

    @property
    def is_lossy(self) -> bool:
        """Whether the container uses a lossy codec."""
        return bool(CONTAINERS[self.container].codec)

    @property
    def is_float(self) -> bool:
        """Whether samples above full scale survive."""
        return self.bit_depth == "32f" and not self.is_lossy

    @property
    def ceiling(self) -> float:
        """Largest peak that does not clip, with a margin for dither and for lossy decoding."""
        if self.is_float:
            return float("inf")
        return 0.98 if self.is_lossy else 1.0 - 2.0 ** (2 - int(self.bit_depth))

    def gain_for(self, peak: float) -> float:
        """Factor that lowers a peak to `ceiling`; 1 if the peak is below it."""
        return 1.0 if self.is_float or peak <= self.ceiling else self.ceiling / peak

    def check(self, sample_rate: int, n_channels: int) -> None:
        """Raise UsageError if the container does not support bit depth, rate (Hz) or channels."""
        limits = CONTAINERS[self.container]
        if not self.is_lossy and self.bit_depth not in limits.bit_depths:
            raise UsageError(
                f"`container={self.container!r}` cannot hold `bit_depth={self.bit_depth!r}`; use "
                f"`bit_depth={limits.bit_depths[-1]!r}`, or `container='wav'`"
            )
        if limits.sample_rates and sample_rate not in limits.sample_rates:
            nearest = min(
                limits.sample_rates, key=lambda rate: (rate < sample_rate, abs(rate - sample_rate))
            )
            raise UsageError(
                f"`container={self.container!r}` cannot hold {sample_rate} Hz; add "
                f"`sample_rate={nearest}`, or use `container='flac'`"
            )
        if n_channels > limits.max_channels:
            raise UsageError(
                f"`container={self.container!r}` holds at most {limits.max_channels} channels, not "
                f"{n_channels}; use `container='wav'`, or `downmix=True`"
            )

    def sndfile_format(self, n_samples: int, n_channels: int) -> tuple[str, str]:
        """libsndfile's (format, subtype) for a file of `n_samples` samples per channel.

        Raises UsageError for AIFF of more than 4 GiB.
        """
        container = CONTAINERS[self.container]
        subtype = container.codec or BIT_DEPTHS[self.bit_depth]
        n_bytes = n_samples * n_channels * int(self.bit_depth[:2]) // 8
        # Leaves room for the header and for tags with pictures.
        if not self.is_lossy and n_bytes >= 2**32 - 2**25:
            if self.container == "wav":
                return "RF64", subtype
            if self.container == "aiff":
                raise UsageError(
                    "`container='aiff'` ends at 4 GiB; use `container='wav'`, flac, caf or w64"
                )
        return container.sndfile_format, subtype


# A stem can be 20 dB below the mixture, so a resolution above 16 bit is kept. Every other subtype
# (8 bit, u-law, ADPCM, lossy codecs) becomes 16 bit.
_BIT_DEPTH_OF_INPUT = {
    "PCM_20": "24",
    "PCM_24": "24",
    "ALAC_20": "24",
    "ALAC_24": "24",
    "PCM_32": "32f",
    "ALAC_32": "32f",
    "FLOAT": "32f",
    "DOUBLE": "32f",
    "DSD": "24",
}


def choose_encoding(info: "AudioInfo", container: str | None, bit_depth: str | None) -> Encoding:
    """Choose container and bit depth of the outputs for an input.

    Args:
        info: format of the input.
        container: a key of `CONTAINERS`; None is wav.
        bit_depth: a key of `BIT_DEPTHS`; None is that of the input, at least 16 bit (a quiet stem
            would drown in noise) and at most the limit of the container. Raw files have no header,
            so their default is always 32-bit float (little endian, interleaved).

    Raises:
        UsageError: an unknown name; `Encoding.check` finds combinations that do not work.
    """
    container = container or "wav"
    if container not in CONTAINERS:
        raise UsageError(
            f"`container={container!r}` is unknown; use one of {', '.join(CONTAINERS)}"
        )
    if bit_depth is None:
        default = "32f" if container == "raw" else _BIT_DEPTH_OF_INPUT.get(info.subtype, "16")
        held = CONTAINERS[container].bit_depths
        return Encoding(container, default if default in held else held[-1])
    if bit_depth not in BIT_DEPTHS:
        raise UsageError(
            f"`bit_depth={bit_depth!r}` is unknown; use one of {', '.join(BIT_DEPTHS)}"
        )
    return Encoding(container, bit_depth)


@dataclass(frozen=True)
class AudioInfo:
    """Format of an input."""

    sample_rate: int
    """In Hz, 8000 to 192000."""
    n_channels: int
    container: str
    """Format name in lower case: "wav", "flac", "ogg", "mp3", ..."""
    subtype: str
    """Sample format as libsndfile names it ("PCM_16", "FLOAT", "VORBIS", ...); for files decoded
    by ffmpeg such a name if lossless, "DSD", or "" if lossy."""
    layout: Layout = ()
    """Speaker of each channel, in WAV order (`mssgen.audio.speakers`); () if unknown."""
