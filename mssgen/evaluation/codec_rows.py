"""Rows for comparisons with a codec: signals passed through the codec alone.

`reference through CODEC` is the ceiling of any system based on that codec, `SYSTEM through CODEC`
the baseline of enhancement of that system's stems: they separate the effect of a codec-based
refiner from that of the codec itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mssgen.audio.encodings import AudioInfo, choose_encoding
from mssgen.audio.resampling import BLOCK_SAMPLES
from mssgen.audio.writing import StemWriter
from mssgen.checkpoints.registry import STEMS
from mssgen.codecs.base import Codec
from mssgen.codecs.coding import decode_coded, encode_source
from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.metrics.base import Audio
from mssgen.evaluation.metrics.table import codec_hash
from mssgen.evaluation.pairing import Found, Note, Pairing, ReferenceTrack, System
from mssgen.evaluation.recordings import Recording
from mssgen.events import Failed, Hook, Progress, Start, ignore
from mssgen.files import is_there
from mssgen.library.stems import SoundFile

REFERENCE = "reference"
MIXTURE_SYSTEM = "mixture"
DRUMS_AND_BASS = "drums & bass"
MIXTURE_STEM = "mixture"


@dataclass(frozen=True)
class _Loaded:
    """Audio in memory as a `mssgen.audio.reading.Source`."""

    name: str
    info: AudioInfo
    audio: Audio

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[Audio]:
        """Blocks [C, T'] from the start."""
        for start in range(0, self.audio.shape[1], block_samples):
            yield self.audio[:, start : start + block_samples]


def through(name: str, codec: Codec) -> str:
    """Name of the row of a system passed through a codec."""
    return f"{name} through {codec.name}"


def with_codec_rows(
    pairing: Pairing,
    codec: Codec,
    *,
    cache: Path,
    systems: Iterable[str] | None = None,
    hook: Hook = ignore,
) -> Pairing:
    """Add `reference through CODEC` and `SYSTEM through CODEC` as systems.

    Decoded audio is kept in `cache` as 32-bit float wav with the rate, channels and length of the
    original. A file that fails is reported to `hook` and missing from its row.

    Args:
        pairing: what is compared.
        codec: frozen, on any device; all of its codebooks are used.
        cache: folder for the decoded audio.
        systems: names of the systems to code; None: all.
        hook: receives progress and failures.
    """
    identity = codec_hash(codec)
    folder = cache / identity[:16]
    wanted = None if systems is None else set(systems)
    references: Found = {}
    for track in pairing.tracks:
        references.setdefault(track.key, {}).update(track.references)
    sources = [System(REFERENCE, pairing.references, references, is_ceiling=True)]
    sources += [s for s in pairing.systems if wanted is None or s.name in wanted]
    rows, notes = [], list(pairing.notes)
    for system in sources:
        coded: Found = {}
        for key, stems in system.estimates.items():
            for stem, recording in stems.items():
                try:
                    path = _coded(recording, codec, folder, f"{key}/{stem} ({system.name})", hook)
                except MssgenError as error:
                    hook(Failed(f"{key}/{stem} ({system.name})", str(error)))
                    note = f"{stem} could not be coded: {error}"
                    notes.append(Note(through(system.name, codec), key, note))
                    continue
                coded.setdefault(key, {})[stem] = Recording((SoundFile(path),))
        rows.append(
            System(through(system.name, codec), str(folder), coded, system.is_ceiling, identity)
        )
    return replace(pairing, systems=(*pairing.systems, *rows), notes=tuple(notes))


def with_mixture_row(pairing: Pairing) -> Pairing:
    """Add the mixture as the estimate of every stem, the baseline without separation.

    Raises UsageError if no track has a mixture.
    """
    estimates: Found = {}
    for track in pairing.tracks:
        if (mixture := _mixture_of(track)) is not None:
            estimates[track.key] = dict.fromkeys(track.references, mixture)
    if not estimates:
        raise UsageError(
            f"no track in {pairing.references} has a mixture or all four stems; name a folder of "
            "mixtures as `mixture`"
        )
    system = System(MIXTURE_SYSTEM, pairing.mixture or pairing.references, estimates)
    return replace(pairing, systems=(system, *pairing.systems))


def with_sums(pairing: Pairing) -> Pairing:
    """Add drums & bass and the mixture as stems, each scored on its own.

    They are sums of other stems: scored together with them, they would make SIR meaningless.
    """
    tracks: list[ReferenceTrack] = list(pairing.tracks)
    for track in pairing.tracks:
        if {"drums", "bass"} <= track.references.keys():
            pair = (track.references["drums"], track.references["bass"])
            tracks.append(ReferenceTrack(track.key, {DRUMS_AND_BASS: _sum(pair)}))
        if (mixture := _mixture_of(track)) is not None:
            tracks.append(ReferenceTrack(track.key, {MIXTURE_STEM: mixture}))
    return replace(pairing, tracks=tuple(tracks))


def _mixture_of(track: ReferenceTrack) -> Recording | None:
    """Mixture of the track, or the sum of its stems if all four exist."""
    if track.mixture is None and set(STEMS) <= track.references.keys():
        return _sum(list(track.references.values()))
    return track.mixture


def _sum(recordings: Sequence[Recording]) -> Recording:
    return Recording(tuple(file for recording in recordings for file in recording.files))


def _coded(recording: Recording, codec: Codec, folder: Path, label: str, hook: Hook) -> Path:
    """File of the recording passed through the codec, made if missing."""
    path = folder / f"{recording.fingerprint()[:32]}.wav"
    if is_there(path):
        return path
    audio, sample_rate = recording.read()
    info = AudioInfo(sample_rate, len(audio), "wav", "FLOAT")
    duration_s = audio.shape[1] / sample_rate
    device = str(codec.device)
    hook(Start(label, duration_s, sample_rate, len(audio), device, "fp32"))
    coded = encode_source(_Loaded(label, info, audio), codec)
    encoding = choose_encoding(info, "wav", "32f")
    with StemWriter(
        path,
        sample_rate=sample_rate,
        n_channels=len(audio),
        n_samples=audio.shape[1],
        encoding=encoding,
        clip="none",
    ) as writer:
        n_done = 0
        for block in decode_coded(coded, codec):
            writer.write(block)
            n_done += block.shape[1]
            hook(Progress(label, n_done / sample_rate, duration_s))
        return writer.finish()
