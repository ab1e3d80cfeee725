"""What a studio does to stems, at random: level, equaliser, compression, room, and a bus limiter.

The stems still sum to the mixture: the limiter's gain is computed on the mixture and applied to
every stem alike, as a bus limiter acts on all that passes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, minimum_filter1d
from scipy.signal import lfilter, oaconvolve, sosfilt

from mssgen.audio.levels import level
from mssgen.errors import UsageError

SAMPLE_RATE = 44100
Audio = NDArray[np.float32]
_CEILING = 0.98
"""Peak of the song: 16 bit and the decoders of lossy formats need a little room."""
_LOOKAHEAD_S = 0.003


@dataclass(frozen=True)
class Treatment:
    """Section [treatment]: how often each step happens, 0 to 1, and how strong it may get."""

    p_equalise: float = 0.7
    p_compress: float = 0.4
    p_room: float = 0.4
    """Synthetic rooms; other and vocals get them as they are, bass and drums weaker."""
    p_width: float = 0.4
    p_limit: float = 0.7
    level_db: float = 4.0
    """Stems are louder or softer by up to this ..."""
    equaliser_db: float = 6.0
    """... bands by up to this ..."""
    drive_db: float = 8.0
    """... and the mixture is pushed into the limiter by up to this."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            highest = 1.0 if field.name.startswith("p_") else 24.0
            if not 0 <= value <= highest:
                raise UsageError(
                    f"treatment.{field.name} = {value:g} is out of range; use 0 to {highest:g}"
                )


def treat(
    stems: Mapping[str, Audio], treatment: Treatment, rng: np.random.Generator
) -> dict[str, Audio]:
    """Stems [2, T] at 44.1 kHz of one song -> the same stems treated; nothing clips.

    Silent stems stay silent. What comes out is the definition of the song: its mixture is the sum.
    """
    treated = {name: _treat_stem(name, sound, treatment, rng) for name, sound in stems.items()}
    drive_db = rng.uniform(0, treatment.drive_db) if rng.random() < treatment.p_limit else None
    if drive_db is not None:
        treated = limit(treated, drive_db)
    return fit_to_scale(treated)


def limit(stems: Mapping[str, Audio], drive_db: float, release_s: float = 0.06) -> dict[str, Audio]:
    """A look-ahead limiter on the sum of stems [2, T], whose gain every stem shares.

    Args:
        stems: any scale; the loudest sample of the sum counts as the limiter's threshold.
        drive_db: by how much that sum is pushed over the threshold.
        release_s: how fast the gain comes back.
    """
    magnitude = np.abs(_sum(stems)).max(axis=0)
    peak = float(magnitude.max(initial=0.0))
    if not peak:
        return dict(stems)
    level = magnitude * np.float32(10 ** (drive_db / 20) / peak)
    wanted = 1 / np.maximum(level, 1)
    ahead = round(_LOOKAHEAD_S * SAMPLE_RATE)
    # The minimum over the look-ahead on both sides, smoothed over less than it, never exceeds what
    # is wanted at any sample: the peak is caught without a step in the gain.
    held = minimum_filter1d(wanted, 2 * ahead + 1, mode="nearest")
    held = _released(held, release_s)
    gain = gaussian_filter1d(held, ahead / 4, truncate=4.0, mode="nearest").astype(np.float32)
    gain *= np.float32(10 ** (drive_db / 20) / peak)
    return {name: sound * gain for name, sound in stems.items()}


def fit_to_scale(stems: Mapping[str, Audio]) -> dict[str, Audio]:
    """One gain for all stems [2, T], such that neither they nor their sum exceed full scale."""
    peaks = [float(np.abs(sound).max(initial=0.0)) for sound in (*stems.values(), _sum(stems))]
    gain = np.float32(_CEILING / max(peaks)) if max(peaks) else np.float32(1)
    return {name: sound * gain for name, sound in stems.items()}


def _sum(stems: Mapping[str, Audio]) -> Audio:
    return np.sum(list(stems.values()), axis=0, dtype=np.float32)


def _released(gain: NDArray[np.floating], release_s: float) -> NDArray[np.floating]:
    """A gain that falls at once and rises back exponentially, in steps of a millisecond."""
    hop = SAMPLE_RATE // 1000
    n_frames = -(-len(gain) // hop)
    frames = np.pad(gain, (0, n_frames * hop - len(gain)), mode="edge").reshape(n_frames, hop)
    keep = float(np.exp(-0.001 / release_s))
    state, slow = 1.0, np.empty(n_frames)
    for index, lowest in enumerate(frames.min(axis=1)):
        state = min(float(lowest), 1 - (1 - state) * keep)
        slow[index] = state
    # Between the points the gain may be no higher than at either of them.
    slow = minimum_filter1d(slow, 3, mode="nearest")
    points = (np.arange(n_frames) + 0.5) * hop
    return np.minimum(gain, np.interp(np.arange(len(gain)), points, slow))


def _treat_stem(name: str, sound: Audio, how: Treatment, rng: np.random.Generator) -> Audio:
    # Numbers are drawn also for a silent stem: what the others get must not depend on it.
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
    # What a compressor takes away is given back: the song keeps its balance but for `level_db`.
    gain = before / max(level(sound), 1e-9) * 10 ** (own.uniform(-how.level_db, how.level_db) / 20)
    return sound * np.float32(gain)


def _equalise(sound: Audio, most_db: float, rng: np.random.Generator) -> Audio:
    """Two shelves and two bells at random; R. Bristow-Johnson, "Cookbook formulae for audio
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
    """A compressor on the level of both channels, by 2:1 to 6:1 above a random threshold."""
    ratio, time_s = rng.uniform(2, 6), float(np.exp(rng.uniform(np.log(0.005), np.log(0.08))))
    power = np.mean(np.square(sound), axis=0)
    keep = float(np.exp(-1 / (time_s * SAMPLE_RATE)))
    power = lfilter([1 - keep], [1, -keep], power)
    level_db = 10 * np.log10(power + 1e-10)
    threshold_db = np.percentile(level_db, 95) - rng.uniform(3, 15)
    gain_db = np.minimum(0, threshold_db - level_db) * (1 - 1 / ratio)
    return (sound * 10 ** (gain_db / 20)).astype(np.float32)


def _set_width(sound: Audio, width: float) -> Audio:
    """The side of stereo times `width`; 0 is mono."""
    middle, side = sound.mean(axis=0), (sound[0] - sound[1]) / 2 * np.float32(width)
    return np.stack([middle + side, middle - side]).astype(np.float32)


def _add_room(sound: Audio, decay_s: float, wet_db: float, rng: np.random.Generator) -> Audio:
    """Add a room made of decaying noise, darker as it decays, other noise in either channel.

    Args:
        decay_s: time to -60 dB.
        wet_db: the room's energy against the sound's own.
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
