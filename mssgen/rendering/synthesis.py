"""Stems from the groups of a MIDI file, by fluidsynth with a soundfont or by a drum kit."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from mssgen.audio.levels import level
from mssgen.audio.reading import open_source
from mssgen.leftovers import scratch_folder
from mssgen.rendering.drumkits import DrumKit
from mssgen.rendering.fetch import find_tool, run_tool
from mssgen.rendering.midi import MidiFile, count_notes, drum_hits
from mssgen.rendering.sounds import SAMPLE_RATE, Audio, fitted

_GAIN = "0.4"
"""Low, as headroom for many voices; the stems are scaled together later."""


@cache
def fluidsynth_version() -> str:
    """Version of fluidsynth, such as "2.3.1"; raises UsageError if it is not installed."""
    program = find_tool("fluidsynth", "to play MIDI files")
    found = re.search(r"\d+\.\d+\.\d+", run_tool([program, "--version"], "to get its version"))
    return found[0] if found else "unknown"


def synthesise(song: MidiFile, font: Path, *, reverb: bool = False) -> Audio:
    """Play a MIDI file with a soundfont; returns audio [2, T] at 44.1 kHz.

    Args:
        song: see `mssgen.rendering.midi.read_midi`.
        font: an .sf2 or .sf3 file.
        reverb: enables fluidsynth's reverb and chorus.

    Raises UsageError if fluidsynth is not installed, MssgenError if it fails.
    """
    program = find_tool("fluidsynth", "to play MIDI files")
    switch = "1" if reverb else "0"
    with scratch_folder() as folder:
        source, target = folder / "song.mid", folder / "song.wav"
        song.save(source)
        # Ignore the user's configuration file, which would change the sound.
        settings = f"-f /dev/null -R {switch} -C {switch} -g {_GAIN} -r {SAMPLE_RATE}".split()
        options = ["-o", "synth.polyphony=4096", "-o", "synth.dynamic-sample-loading=1"]
        output = ["-O", "float", "-T", "wav", "-F", str(target)]
        command = [program, "-n", "-i", "-q", *settings, *options, *output, str(font), str(source)]
        run_tool(command, f"with {font.name}")
        with open_source(target) as opened:
            return np.concatenate(list(opened.blocks()), axis=1)


def render_groups(
    groups: Mapping[str, MidiFile],
    fonts: Mapping[str, Path],
    *,
    kit: DrumKit | None = None,
    reverb: bool = False,
    rng: np.random.Generator,
) -> dict[str, Audio]:
    """A stem [2, T] for each group, all as long as the longest; groups without notes are silent.

    Args:
        groups: see `split_groups`.
        fonts: the soundfont of each group.
        kit: plays the drums instead of their soundfont.
        reverb: see `synthesise`.
        rng: for the variation between hits of a kit.

    The mixture is defined as the sum of the stems: synthesised at once it would differ a little,
    since voices share state.
    """
    stems = {}
    for name, song in groups.items():
        if not count_notes(song):
            stems[name] = np.zeros((2, 0), np.float32)
        elif name == "drums" and kit is not None:
            stems[name] = kit.play(drum_hits(song), rng)
        else:
            stems[name] = synthesise(song, fonts[name], reverb=reverb)
    n_samples = max((stem.shape[1] for stem in stems.values()), default=0)
    return balanced({name: fitted(stem, n_samples) for name, stem in stems.items()})


def balanced(stems: dict[str, Audio]) -> dict[str, Audio]:
    """Stems [2, T] raised to at most 8 dB below the loudest one, and drums lowered to its level:
    soundfonts and kits differ in level, and inaudible stems are useless for training."""
    levels = {name: level(stem) for name, stem in stems.items()}
    # A kit may be far too loud, so the pitched stems are the reference if there are any.
    pitched = max((each for name, each in levels.items() if name != "drums"), default=0.0)
    loudest = pitched or max(levels.values(), default=0.0)
    least = loudest * 10 ** (-8 / 20)
    return {
        name: stem * np.float32(min(max(levels[name], least), loudest) / levels[name])
        if levels[name]
        else stem
        for name, stem in stems.items()
    }
