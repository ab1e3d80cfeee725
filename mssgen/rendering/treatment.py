"""Random studio effects on stems: level, equaliser, compression, room, width, and a bus limiter.

The stems still sum to the mixture: the limiter's gain is computed on the mixture and applied to
every stem alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter1d, minimum_filter1d
from scipy.signal import lfilter, oaconvolve, sosfilt

from mssgen.audio.levels import level
from mssgen.recipes.schema import Share
from mssgen.recipes.sections import check_fields
from mssgen.rendering.sounds import SAMPLE_RATE, Audio, at_level

Decibels = Annotated[float, Field(ge=0, le=24)]
_CEILING = 0.98
"""Peak of the mixture: headroom for 16 bits and for decoders of lossy formats."""
_LOOKAHEAD_S = 0.003


@dataclass(frozen=True)
class Treatment:
    """Section [treatment]: the probability of each effect per stem, and its largest strength."""

    p_equalise: Share = 0.7
    p_compress: Share = 0.4
    p_room: Share = 0.4
    """Probability of a synthetic room, which is 6 dB weaker on bass and drums."""
    p_width: Share = 0.4
    """Probability of another stereo width."""
    p_limit: Share = 0.7
    """Probability of a limiter on the bus."""
    level_db: Decibels = 4.0
    """Largest change of a stem's level, up or down."""
    equaliser_db: Decibels = 6.0
    """Largest gain of an equaliser band, up or down."""
    drive_db: Decibels = 8.0
    """Largest gain of the mixture into the limiter."""

    def __post_init__(self) -> None:
        check_fields(self, "treatment")


def treat(
    stems: Mapping[str, Audio], treatment: Treatment, rng: np.random.Generator
) -> dict[str, Audio]:
    """Apply random effects to the stems [2, T] of one song at 44.1 kHz; nothing clips.

    Silent stems stay silent. The mixture of the song is the sum of the returned stems.
    """
    treated = {name: _treat_stem(name, sound, treatment, rng) for name, sound in stems.items()}
    drive_db = rng.uniform(0, treatment.drive_db) if rng.random() < treatment.p_limit else None
    if drive_db is not None:
        treated = limit(treated, drive_db)
    return fit_to_scale(treated)


def limit(stems: Mapping[str, Audio], drive_db: float, release_s: float = 0.06) -> dict[str, Audio]:
    """A look-ahead limiter on the sum of stems [2, T], whose gain every stem shares.

    Args:
        stems: at any scale; the threshold is the loudest sample of their sum.
        drive_db: gain of the sum before the limiter, dB.
        release_s: release time constant, seconds.
    """
    magnitude = np.abs(_sum(stems)).max(axis=0)
    peak = float(magnitude.max(initial=0.0))
    if not peak:
        return dict(stems)
    level = magnitude * np.float32(10 ** (drive_db / 20) / peak)
    wanted = 1 / np.maximum(level, 1)
    ahead = round(_LOOKAHEAD_S * SAMPLE_RATE)
    # The minimum over the look-ahead on both sides, smoothed over a shorter window, never exceeds
    # the needed gain at any sample: peaks are caught without a step in the gain.
    held = minimum_filter1d(wanted, 2 * ahead + 1, mode="nearest")
    held = _released(held, release_s)
    gain = gaussian_filter1d(held, ahead / 4, truncate=4.0, mode="nearest").astype(np.float32)
    gain *= np.float32(10 ** (drive_db / 20) / peak)
    return {name: sound * gain for name, sound in stems.items()}


def fit_to_scale(stems: Mapping[str, Audio]) -> dict[str, Audio]:
    """Stems [2, T] with one common gain, such that neither they nor their sum exceed full scale."""
    peaks = [float(np.abs(sound).max(initial=0.0)) for sound in (*stems.values(), _sum(stems))]
    gain = np.float32(_CEILING / max(peaks)) if max(peaks) else np.float32(1)
    return {name: sound * gain for name, sound in stems.items()}


def _sum(stems: Mapping[str, Audio]) -> Audio:
    return np.sum(list(stems.values()), axis=0, dtype=np.float32)


def _released(gain: NDArray[np.floating], release_s: float) -> NDArray[np.floating]:
    """A gain [T] that falls immediately and recovers exponentially, in steps of 1 ms."""
    hop = SAMPLE_RATE // 1000
    n_frames = -(-len(gain) // hop)
    frames = np.pad(gain, (0, n_frames * hop - len(gain)), mode="edge").reshape(n_frames, hop)
    keep = float(np.exp(-0.001 / release_s))
    state, slow = 1.0, np.empty(n_frames)
    for index, lowest in enumerate(frames.min(axis=1)):
        state = min(float(lowest), 1 - (1 - state) * keep)
        slow[index] = state
    # Between two points the gain must not exceed that of either.
    slow = minimum_filter1d(slow, 3, mode="nearest")
    points = (np.arange(n_frames) + 0.5) * hop
    return np.minimum(gain, np.interp(np.arange(len(gain)), points, slow))


def _treat_stem(name: str, sound: Audio, how: Treatment, rng: np.random.Generator) -> Audio:
    # Draw also for a silent stem, so that the effects on the others do not depend on it.
    own = np.random.default_rng(rng.integers(2**63))
    before = level(sound)
    if not before:
        return sound
    if own.random() < how.p_equalise:
        sound = _equalise(sound, how.equaliser_db, own)
    if own.random() < how.p_compress:
        sound = _compress(sound, own)
    if own.random() < how.p_width:
        sound = _set_width(sound, own.uniform(0.0 if name == "bass" else 0.5, 1.3))
    if own.random() < how.p_room:
        wet_db = own.uniform(-22, -8) - (6 if name in ("bass", "drums") else 0)
        sound = _add_room(sound, own.uniform(0.2, 1.8), wet_db, own)
    # Make-up gain: the balance of the song changes by `level_db` only.
    return at_level(sound, before * 10 ** (own.uniform(-how.level_db, how.level_db) / 20))


def _equalise(sound: Audio, most_db: float, rng: np.random.Generator) -> Audio:
    """Two random shelves and two random bells; R. Bristow-Johnson, "Cookbook formulae for audio
    equalizer biquad filter coefficients"."""
    sections = [
        _shelf(rng.uniform(60, 300), rng.uniform(-most_db, most_db), is_high=False),
        _shelf(rng.uniform(3000, 10000), rng.uniform(-most_db, most_db), is_high=True),
    ]
    for _ in range(2):
        frequency = float(np.exp(rng.uniform(np.log(150), np.log(8000))))
        sections.append(_bell(frequency, rng.uniform(-most_db, most_db), rng.uniform(0.5, 2.5)))
    return sosfilt(np.array(sections), sound).astype(np.float32)


def _bell(frequency: float, gain_db: float, quality: float) -> list[float]:
    root = 10 ** (gain_db / 40)
    angle = 2 * np.pi * frequency / SAMPLE_RATE
    width, cosine = np.sin(angle) / (2 * quality), np.cos(angle)
    over = [1 + width * root, -2 * cosine, 1 - width * root]
    under = [1 + width / root, -2 * cosine, 1 - width / root]
    return [value / under[0] for value in over + under]


def _shelf(frequency: float, gain_db: float, *, is_high: bool) -> list[float]:
    root = 10 ** (gain_db / 40)
    angle = 2 * np.pi * frequency / SAMPLE_RATE
    cosine = np.cos(angle) * (-1 if is_high else 1)
    width = 2 * np.sqrt(root) * np.sin(angle) / np.sqrt(2)
    sign = -1 if is_high else 1
    over = [
        root * (root + 1 - (root - 1) * cosine + width),
        sign * 2 * root * (root - 1 - (root + 1) * cosine),
        root * (root + 1 - (root - 1) * cosine - width),
    ]
    under = [
        root + 1 + (root - 1) * cosine + width,
        sign * -2 * (root - 1 + (root + 1) * cosine),
        root + 1 + (root - 1) * cosine - width,
    ]
    return [float(value / under[0]) for value in over + under]


def _compress(sound: Audio, rng: np.random.Generator) -> Audio:
    """A stereo-linked compressor with ratio 2:1 to 6:1 and a random threshold."""
    ratio, time_s = rng.uniform(2, 6), float(np.exp(rng.uniform(np.log(0.005), np.log(0.08))))
    power = np.mean(np.square(sound), axis=0)
    keep = float(np.exp(-1 / (time_s * SAMPLE_RATE)))
    power = lfilter([1 - keep], [1, -keep], power)
    level_db = 10 * np.log10(power + 1e-10)
    threshold_db = np.percentile(level_db, 95) - rng.uniform(3, 15)
    gain_db = np.minimum(0, threshold_db - level_db) * (1 - 1 / ratio)
    return (sound * 10 ** (gain_db / 20)).astype(np.float32)


def _set_width(sound: Audio, width: float) -> Audio:
    """Stereo audio [2, T] with its side channel scaled by `width`; 0 is mono."""
    middle, side = sound.mean(axis=0), (sound[0] - sound[1]) / 2 * np.float32(width)
    return np.stack([middle + side, middle - side]).astype(np.float32)


def _add_room(sound: Audio, decay_s: float, wet_db: float, rng: np.random.Generator) -> Audio:
    """Add a synthetic room: decaying noise, independent per channel, that gets darker with time.

    Args:
        decay_s: decay time to -60 dB, seconds.
        wet_db: energy of the room relative to the dry sound, dB.
    """
    n_room = round(min(decay_s, 1.5) * SAMPLE_RATE)
    time_s = np.arange(n_room) / SAMPLE_RATE
    noise = rng.standard_normal((2, n_room))
    dark = lfilter([0.15], [1, -0.85], noise, axis=1)
    blend = np.exp(-time_s / (decay_s / 6))
    room = (noise * blend + 2 * dark * (1 - blend)) * 10 ** (-3 * time_s / decay_s)
    room = np.concatenate([np.zeros((2, round(rng.uniform(0, 0.03) * SAMPLE_RATE))), room], axis=1)
    wet = oaconvolve(sound, room.astype(np.float32), axes=1)[:, : sound.shape[1]]
    energy = float(np.mean(np.square(wet)))
    ratio = float(np.mean(np.square(sound))) / energy if energy else 0.0
    return (sound + wet * np.sqrt(ratio) * 10 ** (wet_db / 20)).astype(np.float32)
