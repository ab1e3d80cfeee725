"""Renders one song from its source to its stems and its entry in the manifest."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mssgen.audio.levels import level, level_db
from mssgen.checkpoints.registry import STEMS
from mssgen.errors import MssgenError
from mssgen.rendering import openmpt
from mssgen.rendering.accompaniments import draft_song, generate
from mssgen.rendering.band import Played, play_band
from mssgen.rendering.drumkits import load_kit
from mssgen.rendering.labels import label_instruments, named_share
from mssgen.rendering.manifest import source_of
from mssgen.rendering.midi import GROUPS, MidiFile, Variation, read_midi, split_groups
from mssgen.rendering.openmpt import Module, Style
from mssgen.rendering.planning import Song, Sounds, SourceFile
from mssgen.rendering.recipe import Instruments, Modules, RenderOptions, RenderRecipe
from mssgen.rendering.singing import SINGER, draw_voice, sing
from mssgen.rendering.sounds import SAMPLE_RATE, Audio, at_level, fitted, mixed
from mssgen.rendering.synthesis import balanced, fluidsynth_version, render_groups
from mssgen.rendering.treatment import treat

_HEARD_DB = -60.0
"""Stems below this RMS level relative to the loudest stem count as silent."""
_TAIL_DB = -70.0
_MIX_DB = {"drums": (-4.0, 3.0), "bass": (-4.0, 3.0)}
"""Range of the RMS level of recorded stems relative to other, dB."""


class Unsuitable(MssgenError):
    """A song that cannot be used; it is left out, and the manifest states the reason."""


@dataclass(frozen=True)
class Rendered:
    """A rendered song."""

    stems: dict[str, Audio]
    """drums, bass, other and vocals, [2, T] at 44.1 kHz."""
    facts: dict[str, Any]
    """Entries of the manifest: sources, labels, playing style."""


def render_song(song: Song, recipe: RenderRecipe, sounds: Sounds | None) -> Rendered:
    """Render and treat a song; the same song, recipe and tools give the same samples.

    Raises Unsuitable if the source cannot be used, MssgenError if a tool fails.
    """
    stems, facts = _PLAYERS[song.kind](song, recipe, sounds)
    _check_stems(stems, recipe.render)
    stems.setdefault("vocals", np.zeros_like(stems["drums"]))
    treated = treat({name: stems[name] for name in STEMS}, recipe.treatment, song.rng("treatment"))
    return Rendered(treated, facts)


def _play_module(
    song: Song, recipe: RenderRecipe, _: Sounds | None
) -> tuple[dict[str, Audio], dict[str, Any]]:
    """Stems by muting instruments; raises Unsuitable if they do not sum to the mixture or too few
    instruments are named."""
    how = recipe.modules
    module = Module(song.file.path.name, song.file.read())
    try:
        if module.duration_s < recipe.render.min_duration_s:
            raise Unsuitable(f"{module.duration_s:.0f} s is too short")
        labels = label_instruments(module)
    except MssgenError as error:
        raise Unsuitable(str(error)) from error
    share = named_share(labels)
    if share < how.min_named:
        raise Unsuitable(
            f"{share:.0%} of its energy is from named instruments, less than {how.min_named:.0%}"
        )
    style = _draw_style(module, how, song.rng("style"))
    longest_s = recipe.render.max_duration_s
    mixture = module.play(max_duration_s=longest_s, style=style)
    stems: dict[str, Audio] = {}
    for group in GROUPS:
        chosen = [index for index, label in enumerate(labels) if label.stem == group]
        stems[group] = fitted(
            module.play(chosen, max_duration_s=longest_s, style=style), mixture.shape[1]
        )
    residual = mixture - sum(stems.values(), np.zeros_like(mixture))
    error_db = level_db(residual) - level_db(mixture)
    if not error_db <= how.max_error_db:  # NaN: nothing was heard
        raise Unsuitable(f"its stems miss the mixture by {error_db:.0f} dB")
    heard = [
        {"name": name, "stem": label.stem, "by": "name" if label.is_named else "sound"}
        for name, label in zip(module.instruments, labels, strict=True)
        if label.energy
    ]
    return stems, {
        "sources": [source_of("module", song.file)],
        "labels": {"confidence": round(share, 3), "instruments": heard},
        "played": asdict(style),
        "sum_error_db": round(max(-200.0, error_db), 1),
        "tools": {"libopenmpt": openmpt.version()},
    }


def _draw_style(module: Module, how: Modules, rng: np.random.Generator) -> Style:
    # Four channels are an Amiga's, panned hard left and right: players narrow them nowadays.
    is_amiga = module.n_channels <= 4
    return Style(
        tempo=float(1 + rng.uniform(-how.tempo, how.tempo)),
        pitch=float(2 ** (rng.uniform(-how.semitones, how.semitones) / 12)),
        separation_percent=int(rng.integers(15, 50) if is_amiga else rng.integers(50, 101)),
        interpolation=int(rng.choice([8, 8, 8, 8, 4, 2])),
    )


def _play_midi(
    song: Song, recipe: RenderRecipe, sounds: Sounds | None
) -> tuple[dict[str, Audio], dict[str, Any]]:
    try:
        source = read_midi(song.file.read(), song.file.path.name)
    except MssgenError as error:
        raise Unsuitable(str(error)) from error
    return _play_notes(source, "midi", song, recipe, sounds)


def _play_accompaniment(
    song: Song, recipe: RenderRecipe, sounds: Sounds | None
) -> tuple[dict[str, Audio], dict[str, Any]]:
    assert song.style is not None
    try:
        source = generate(song.file.package, song.style, song.seed)
    except MssgenError as error:
        raise Unsuitable(str(error)) from error
    return _play_notes(source, "style", song, recipe, sounds)


def _play_sung(
    song: Song, recipe: RenderRecipe, sounds: Sounds | None
) -> tuple[dict[str, Audio], dict[str, Any]]:
    """An accompaniment in its original key and tempo, with a voice that sings along."""
    assert song.style is not None
    how = replace(recipe.instruments, semitones=0, tempo=0.0)
    stems, facts = _play_accompaniment(song, replace(recipe, instruments=how), sounds)
    rng = song.rng("voice")
    voice, melody = draw_voice(rng), int(rng.integers(2**31))
    vocals = sing(draft_song(song.style, song.seed), melody, voice)
    rest_db = level_db(np.sum(list(stems.values()), axis=0))
    gain_db = rest_db + rng.uniform(-5, 1) - level_db(vocals) if np.any(vocals) else 0.0
    vocals = fitted(vocals * np.float32(10 ** (gain_db / 20)), stems["drums"].shape[1])
    facts["sources"].append({"role": "vocals", **SINGER})
    facts["played"]["voice"] = asdict(voice)
    return {**stems, "vocals": vocals}, facts


def _play_notes(
    source: MidiFile, role: str, song: Song, recipe: RenderRecipe, sounds: Sounds | None
) -> tuple[dict[str, Audio], dict[str, Any]]:
    """Stems of a MIDI file, by recorded instruments, soundfonts and sometimes a drum kit."""
    assert sounds is not None
    how, rng = recipe.instruments, song.rng("instruments")
    variation = Variation(
        semitones=int(rng.integers(-how.semitones, how.semitones + 1)),
        tempo=float(1 + rng.uniform(-how.tempo, how.tempo)),
        velocity_jitter=how.velocity_jitter,
        seed=int(rng.integers(2**31)),
    )
    groups = split_groups(source, max_duration_s=recipe.render.max_duration_s, variation=variation)
    fonts = {group: sounds.fonts[rng.integers(len(sounds.fonts))] for group in GROUPS}
    kit_file, has_reverb = _draw_kit(sounds, how, rng), bool(rng.random() < how.p_reverb)
    kit = None if kit_file is None else load_kit(kit_file.path)
    played = Played(rest={str(group): notes for group, notes in groups.items()})
    if sounds.band is not None:
        played = play_band(played.rest, sounds.band, song.rng("band"))
    stems = render_groups(
        played.rest,
        {str(group): file.path for group, file in fonts.items()},
        kit=kit,
        reverb=has_reverb,
        rng=rng,
    )
    stems = _joined(stems, played, song.rng("balance"))
    stems = {name: fitted(stem, _end(stems, recipe.render)) for name, stem in stems.items()}
    sources = [source_of(role, song.file), *played.sources]
    for group, file in fonts.items():
        if group not in played.rest:
            continue
        if group == "drums" and kit is not None and kit_file is not None:
            sources.append({**source_of("drums", kit_file), "licence_of_kit": kit.licence})
        else:
            sources.append(source_of(group, file))
    return stems, {
        "sources": sources,
        "labels": {"confidence": 1.0},
        "played": {**asdict(variation), "reverb": has_reverb, **played.facts},
        "tools": {"fluidsynth": fluidsynth_version()},
    }


def _joined(rest: dict[str, Audio], played: Played, rng: np.random.Generator) -> dict[str, Audio]:
    """The stems of soundfonts and of the band, balanced; a stem may contain both."""
    if not played.stems:
        return rest
    joined = dict(rest)
    for name, sound in played.stems.items():
        beside = rest.get(name)
        if beside is not None and np.any(beside):
            sound = at_level(sound, level(beside) * 10 ** (rng.uniform(-4, 4) / 20))
            sound = mixed([(0, sound), (0, beside)])
        joined[name] = sound
    reference = level(joined["other"]) if "other" in joined else 0.0
    for name, (least_db, most_db) in _MIX_DB.items():
        # The level of a recording does not determine its level in a mix.
        if name in played.stems and reference and level(joined[name]):
            wanted = reference * 10 ** (rng.uniform(least_db, most_db) / 20)
            joined[name] = at_level(joined[name], wanted)
    n_samples = max(sound.shape[1] for sound in joined.values())
    return balanced({name: fitted(sound, n_samples) for name, sound in joined.items()})


def _draw_kit(sounds: Sounds, how: Instruments, rng: np.random.Generator) -> SourceFile | None:
    is_kit, place = rng.random() < how.p_kit, rng.random()
    return sounds.kits[int(place * len(sounds.kits))] if is_kit and sounds.kits else None


def _end(stems: dict[str, Audio], options: RenderOptions) -> int:
    """Number of samples until the audio has decayed: synthesisers append seconds of silence."""
    mixture = np.abs(sum(stems.values(), np.zeros((2, 1), np.float32))).max(axis=0)
    loud = np.flatnonzero(mixture > mixture.max(initial=0.0) * 10 ** (_TAIL_DB / 20))
    last = int(loud[-1]) + 1 if len(loud) else 0
    return min(last, round(options.max_duration_s * SAMPLE_RATE))


def _check_stems(stems: dict[str, Audio], options: RenderOptions) -> None:
    """Raise Unsuitable for a song that is too short or has too few audible stems."""
    duration_s = stems["drums"].shape[1] / SAMPLE_RATE
    if duration_s < options.min_duration_s:
        raise Unsuitable(f"{duration_s:.0f} s is too short")
    levels = {name: level_db(stem) for name, stem in stems.items()}
    heard = [name for name in levels if levels[name] > max(levels.values()) + _HEARD_DB]
    if len(heard) < options.min_stems:
        raise Unsuitable(f"its only audible stem is {', '.join(heard) or 'none'}")


_Player = Callable[[Song, RenderRecipe, Sounds | None], tuple[dict[str, Audio], dict[str, Any]]]
_PLAYERS: dict[str, _Player] = {
    "module": _play_module,
    "midi": _play_midi,
    "accompaniment": _play_accompaniment,
    "sung": _play_sung,
}
