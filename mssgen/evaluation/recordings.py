"""Recordings on disk, and how references and estimates are aligned with each other."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mssgen.audio.reading import check_finite, open_source
from mssgen.audio.resampling import at_rate
from mssgen.errors import AudioError
from mssgen.evaluation.metrics.base import Audio, TrackAudio
from mssgen.inspection.cells import counted
from mssgen.library.stems import SoundFile, StemFile, to_channels

_SAMPLED_BYTES = 2**16


@dataclass(frozen=True)
class Recording:
    """One stem: the sum of its files, which is one file in most layouts."""

    files: tuple[StemFile, ...]

    @property
    def path(self) -> Path:
        """Path of the first file."""
        return self.files[0].path

    @property
    def duration_s(self) -> float:
        """Duration from the headers; 0 if they cannot be read."""
        try:
            return max(file.n_samples / file.sample_rate for file in map(_fresh, self.files))
        except AudioError:
            return 0.0

    def read(self) -> tuple[Audio, int]:
        """([C, T] float32, sample rate in Hz); raises AudioError for a damaged file."""
        audio, sample_rate = _read(self.files[0])
        for file in self.files[1:]:
            more, rate = _read(file)
            more = at_rate(more, rate, sample_rate)
            n_channels, n_samples = np.maximum(audio.shape, more.shape)
            both = [fitted(part, int(n_channels), int(n_samples)) for part in (audio, more)]
            audio = both[0] + both[1]
        return audio, sample_rate

    def fingerprint(self) -> str:
        """A hash that changes with the content of the files, without reading all of it.

        It covers size, modification time, and the first, middle and last 64 KiB: two versions of a
        track may share size and time. Paths do not count, so results survive a move. Raises
        AudioError if a file is missing.
        """
        digest = hashlib.sha256()
        for file in self.files:
            try:
                about = file.path.stat()
                index = getattr(file, "index", 0)
                digest.update(f"{about.st_size} {about.st_mtime_ns} {index}\n".encode())
                with file.path.open("rb") as opened:
                    for start in (0, about.st_size // 2, about.st_size - _SAMPLED_BYTES):
                        opened.seek(max(0, start))
                        digest.update(opened.read(_SAMPLED_BYTES))
            except OSError as error:
                raise AudioError(f"{file.path} cannot be read ({error.strerror})") from error
        return digest.hexdigest()


def load_track(
    track: str,
    references: Mapping[str, Recording],
    estimates: Mapping[str, Recording],
    mixture: Recording | None = None,
) -> TrackAudio:
    """Read one track of one system and align it; `TrackAudio.notes` lists the changes.

    * sample rate: that of the first reference;
    * channels: mono is doubled if anything is stereo; more than two are mixed to stereo;
    * length: that of the longest reference; the others are cut, or padded with zeros.

    Raises AudioError for a damaged file.
    """
    notes: list[str] = []
    raw = {(_REFERENCE, stem): recording.read() for stem, recording in references.items()}
    raw |= {(_ESTIMATE, stem): recording.read() for stem, recording in estimates.items()}
    if mixture is not None:
        raw[_MIXTURE, ""] = mixture.read()
    sample_rate = next(rate for _, rate in raw.values())
    parts = {key: audio for key, (audio, _) in raw.items()}
    for key, (audio, rate) in raw.items():
        if rate != sample_rate:
            parts[key] = at_rate(audio, rate, sample_rate)
            notes.append(f"{_named(key)} was resampled from {rate} to {sample_rate} Hz")
    n_samples = max(audio.shape[1] for (kind, _), audio in parts.items() if kind == _REFERENCE)
    n_channels = max(min(2, len(audio)) for (kind, _), audio in parts.items() if kind != _MIXTURE)
    for key, audio in parts.items():
        if not audio.any():
            notes.append(f"{_named(key)} is all zeros")
        n_more = audio.shape[1] - n_samples
        if n_more:
            done = "long and was cut" if n_more > 0 else "short and was padded with zeros"
            notes.append(f"{_named(key)} was {counted(abs(n_more), 'sample')} too {done}")
        if len(audio) != n_channels:
            done = "doubled" if n_channels > len(audio) else f"mixed to {n_channels}"
            notes.append(f"{_named(key)} has {counted(len(audio), 'channel')} and was {done}")
        parts[key] = fitted(audio, n_channels, n_samples)

    def of(kind: str) -> dict[str, Audio]:
        return {stem: audio for (found, stem), audio in parts.items() if found == kind}

    return TrackAudio(
        track,
        sample_rate,
        of(_REFERENCE),
        of(_ESTIMATE),
        parts.get((_MIXTURE, "")),
        tuple(notes),
    )


_REFERENCE, _ESTIMATE, _MIXTURE = "reference", "estimate", "mixture"


def _named(key: tuple[str, str]) -> str:
    kind, stem = key
    return f"the {kind} of {stem}" if stem else f"the {kind}"


def fitted(audio: Audio, n_channels: int, n_samples: int) -> Audio:
    """Audio [C, T] as [n_channels, n_samples], mixed or doubled, cut or padded."""
    if len(audio) != n_channels:
        audio = to_channels(audio, n_channels)
    audio = audio[:, :n_samples]
    return np.pad(audio, ((0, 0), (0, n_samples - audio.shape[1])))


def _fresh(file: StemFile) -> StemFile:
    """A copy without cached properties, which must not be sent to other processes."""
    return replace(cast(Any, file))


def _read(file: StemFile) -> tuple[Audio, int]:
    file = _fresh(file)
    if isinstance(file, SoundFile):
        with open_source(file.path) as source:
            audio = np.concatenate(list(source.blocks()), axis=1)
            sample_rate = source.info.sample_rate
    else:
        audio, sample_rate = file.read(0, file.n_samples), file.sample_rate
    check_finite(audio, 0, sample_rate, str(file.path))
    return audio, sample_rate
