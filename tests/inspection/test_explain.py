"""The picture of `mssgen enhance --explain`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from matplotlib.image import imread

from mssgen.errors import UsageError
from mssgen.events import Event, Written
from mssgen.inputs.tracks import Track
from mssgen.inspection.explain import explaining


def noise(path: Path, band_hz: slice, rate: int, n_channels: int) -> Path:
    """A second of noise within a band."""
    white = np.random.default_rng(0).normal(0, 0.1, (rate, n_channels))
    spectrum = np.zeros((rate // 2 + 1, n_channels), complex)
    spectrum[band_hz] = np.fft.rfft(white, axis=0)[band_hz]
    sf.write(path, np.fft.irfft(spectrum, rate, axis=0), rate, subtype="FLOAT")
    return path


def test_a_picture_beside_the_output_shows_what_was_added(tmp_path: Path) -> None:
    song = Track(str(noise(tmp_path / "a.b.wav", slice(0, 2000), 16_000, 2)), "a.b")
    told: list[Event] = []
    hear = explaining(told.append, [song])
    # Another rate and other channels, as --sample-rate and --downmix give them.
    output = noise(tmp_path / "out.b.wav", slice(3000, 7000), 24_000, 1)
    done = Written(song.label, "bass", output)
    hear(done)
    picture = tmp_path / "out.b.explain.png"
    assert told == [done, Written(song.label, "explain", picture)]
    # The third of four panels: red above, where the treble came in, and blue where the bass left.
    red, _, blue = np.moveaxis(imread(picture)[:, :, :3], -1, 0)
    height, width = red.shape
    panel = slice(height * 55 // 100, height * 77 // 100), slice(0, width * 85 // 100)
    change = (red - blue)[panel]
    reds, blues = (np.nonzero(mask)[0] for mask in (change > 0.25, change < -0.25))
    assert min(len(reds), len(blues)) > 20_000
    assert reds.mean() < blues.mean() - 50


def test_standard_input_cannot_be_read_again() -> None:
    with pytest.raises(UsageError, match="reads the input twice"):
        explaining(print, [Track("-", "stdin")])
