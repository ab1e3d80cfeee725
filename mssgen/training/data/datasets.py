"""Segments for training: pairs of what a model hears and the clean stem, drawn from a library.

Item i of a dataset is a pure function of the seed and of i, for every i >= 0. So training that
resumes, with any number of workers or devices, goes on with the very data it would have seen:

    DataLoader(dataset, batch_size, sampler=range(n_items_done, n_items), collate_fn=collate)
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mssgen.audio.levels import level_db
from mssgen.errors import UsageError
from mssgen.library.stems import (
    MIXTURE,
    NAMED,
    OTHER,
    Library,
    StemFile,
    TrackStems,
    open_library,
    read_sum,
)
from mssgen.training.data.augment import AUGMENTED, NO_CHANGE, Augmentation, add_noise, draw_change
from mssgen.training.data.pairs import open_pairs, paired
from mssgen.training.task import Batch

ANY = "any"
_PAIRED = ("separated", "separated+mixture")
_LEAST_LEAK_DB = -60.0
INPUTS = (*_PAIRED, "mixture", "noisy", "clean")
_log = logging.getLogger(__name__)
Audio = NDArray[np.float32]


@dataclass(frozen=True)
class DataOptions:
    """The section [data] of a recipe; contradictions raise UsageError."""

    stem: str = "bass"
    """The target: a stem of the library, by any name that its files have; with clean or noisy input
    also "mixture", or "any": one of the track's stems or its mixture, each as often as the others.
    """
    named: tuple[str, ...] = NAMED
    """The stem "other" is the sum of all stems but these. For separated input it is what the model
    that separated does not name."""
    input: str = "separated"
    """What the model hears: "separated" (of the pairs folder), "separated+mixture" (that, and the
    mixture as further channels), "mixture", "noisy" (the target with white noise) or "clean" (the
    target itself, to train codecs)."""
    p_alone: float = 0.0
    """How often "separated+mixture" has silence for the mixture, as where it is not at hand."""
    max_leak_db: float = -60.0
    """How much of the rest of the song is added to the separated stem of "separated+mixture", half
    of the time, from -60 dB up to this: more leaks from released songs than from rendered ones."""
    min_sdr_db: float = -200.0
    """Segments whose separated stem has a lower SDR are drawn again, too: the labels of rendered
    instruments are guesses, so that a pair may be of two different ones."""
    segment_s: float = 16.0
    start_step_s: float = 0.0
    """Segments start at multiples of this, so that they recur and work on them can be kept; 0
    starts at any sample."""
    min_level_db: float = -60.0
    """Segments whose target is softer (RMS, dB of full scale) are drawn again ..."""
    n_tries: int = 8
    """... this often at most; then the loudest one found is taken."""
    noise_db: float = -20.0
    """Level of the noise of a noisy input, against that of the target in the segment."""
    n_valid_tracks: int = 5
    """Tracks to validate on where the library has no folder valid, as in the thesis (section
    6.2.2); at most half of the tracks. With 0 it is the tracks of training: to overfit."""
    max_tracks: int = 0
    """Train on so many tracks only (1: overfit on a song); 0 takes all."""
    fixed_segment: bool = False
    """Train and validate on one and the same segment, to overfit on it."""
    augment: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise UsageError(
                f"data.input {self.input!r} is unknown; use one of {', '.join(INPUTS)}"
            )
        if self.stem in (MIXTURE, ANY) and self.input in (*_PAIRED, "mixture"):
            raise UsageError(f'data.stem "{self.stem}" needs data.input "clean" or "noisy"')
        for name, lowest in (("n_tries", 1), ("n_valid_tracks", 0)):
            if getattr(self, name) < lowest:
                raise UsageError(f"data.{name} is {getattr(self, name)}; use {lowest} or more")
        if {OTHER, MIXTURE, ANY} & set(self.named):
            raise UsageError(
                f"data.named lists what is not {OTHER}; leave out {OTHER}, {MIXTURE} and {ANY}"
            )
        if self.max_tracks < 0:
            raise UsageError(f"data.max_tracks is {self.max_tracks}; use 1 or more, or 0 for all")
        if not 0 < self.segment_s <= 3600:
            raise UsageError(f"data.segment_s is {self.segment_s:g}; use up to 3600 seconds")
        if not 0 <= self.start_step_s <= 3600:
            raise UsageError(f"data.start_step_s is {self.start_step_s:g}; use 0 to 3600 seconds")
        if not 0 <= self.p_alone <= 1:
            raise UsageError(f"data.p_alone is {self.p_alone:g}, a probability; use 0 to 1")
        if not _LEAST_LEAK_DB <= self.max_leak_db <= 0:
            raise UsageError(
                f"data.max_leak_db is {self.max_leak_db:g}; use {_LEAST_LEAK_DB:g} (none) to 0"
            )
        if not -200 <= self.min_sdr_db <= 60:
            raise UsageError(f"data.min_sdr_db is {self.min_sdr_db:g}; use -200 to 60")
        if not -200 <= self.noise_db <= 60:
            raise UsageError(f"data.noise_db is {self.noise_db:g}; use -200 to 60")
        # What was separated from one mixture says nothing of another that was never separated, and
        # without a mixture there is nothing to shuffle.
        if self.augment.p_remix and self.input != "mixture":
            raise UsageError(
                f'data.augment.p_remix works with data.input "mixture" only, not "{self.input}"; '
                "set it to 0"
            )


@dataclass(frozen=True)
class Segment:
    """One item."""

    input: Tensor
    """[C, T] float32, with the mixture behind it [2 C, T]; the target itself where it is clean."""
    target: Tensor
    """[C, T] float32."""
    key: str
    """TRACK/STEM@START+LENGTH#FINGERPRINT, in samples at the dataset's rate; of an altered one also
    which item it is."""


class SegmentDataset(Dataset[Segment]):
    """Segments at random places of the tracks, every second of music equally likely.

    For validation they are spread evenly over the tracks, and the same whatever the seed.
    """

    def __init__(
        self,
        library: Library,
        options: DataOptions,
        *,
        sample_rate: int,
        n_channels: int,
        seed: int = 0,
        pairs: Path | None = None,
        is_valid: bool = False,
    ) -> None:
        """See `open_datasets`; `n_channels` is 1 or 2."""
        if n_channels not in (1, 2):
            raise UsageError(f"segments have 1 or 2 channels, not {n_channels}")
        if seed < 0:
            raise UsageError(f"--seed {seed} is negative; use 0 or more")
        library = library.naming(options.named)
        if pairs is not None and options.input in _PAIRED:
            library = paired(library, pairs)
        training, validation = split_tracks(library, options)
        self.options, self.sample_rate, self.n_channels = options, sample_rate, n_channels
        # One segment to overfit on is the same for both.
        self.is_valid = is_valid and not options.fixed_segment
        self.tracks = validation if self.is_valid else training
        self.n_samples = max(1, round(options.segment_s * sample_rate))
        self._seed = (1,) if self.is_valid else (0, seed)
        self._lengths = [track.n_samples(sample_rate) for track in self.tracks]
        self._ends = np.cumsum(self._lengths)
        self._pairs: dict[str, StemFile] = {}
        if options.input in _PAIRED:
            if pairs is None:
                raise UsageError(
                    f'data.input "{options.input}" needs separated stems; make them with `mssgen '
                    "data pairs` and name their folder with --pairs"
                )
            self._pairs = open_pairs(pairs, self.tracks, options.stem)

    def __len__(self) -> int:
        """As many as would fill the tracks once."""
        if self.options.fixed_segment:
            return 1
        return max(1, int(self._ends[-1]) // self.n_samples)

    def __getitem__(self, index: int) -> Segment:
        """Item `index`, which may exceed the length: there is always more."""
        # Places and alterations have generators of their own: one segment can get new noise.
        place = [*self._seed, 0 if self.options.fixed_segment else index]
        drawn = self._draw(np.random.default_rng(place), index)
        track, stem, start, target = drawn.track, drawn.stem, drawn.start, drawn.target
        numbers = np.random.default_rng([*self._seed, index, 1])
        others = [other for other in track.files if other not in track.parts(stem)]
        is_mixture = self.options.input == "mixture"
        # A track of one stem and the mixture cannot be mixed anew.
        is_fixed = self.is_valid or self.options.fixed_segment or (is_mixture and not others)
        augment = Augmentation() if is_fixed else self.options.augment
        change = draw_change(augment, numbers, self.n_channels)
        altered, is_altered = change(target), change != NO_CHANGE
        heard = altered
        if drawn.separated is not None:
            # Altered as the target is: it is what a separator makes of the real mixture.
            heard = change(drawn.separated)
            if self.options.input == "separated+mixture":
                is_alone = numbers.random() < self.options.p_alone
                leak = np.float32(0) if is_fixed else self._leak(numbers)
                song = np.zeros_like(heard)
                if leak or not is_alone:
                    mixture = change(self._read(track.recordings(MIXTURE), start))
                    heard = heard + leak * (mixture - altered) if leak else heard
                    song = song if is_alone else mixture
                heard = np.concatenate([heard, song])
        elif self.options.input == "noisy":
            heard, is_altered = add_noise(altered, self.options.noise_db, numbers), True
        elif is_mixture:
            is_remixed = bool(numbers.random() < augment.p_remix)
            changes = {other: draw_change(augment, numbers, self.n_channels) for other in others}
            is_altered |= is_remixed or any(each != NO_CHANGE for each in changes.values())
            if is_altered:
                for other, alter in changes.items():
                    where = self._elsewhere(other, numbers) if is_remixed else (track, start)
                    heard = heard + alter(self._read(where[0].files[other], where[1]))
            else:  # as it was mastered, where that is at hand
                heard = self._read(track.recordings(MIXTURE), start)
        key = f"{track.key}/{stem}@{start}+{self.n_samples}#{track.fingerprint}"
        if is_altered:
            key += AUGMENTED + "-".join(str(number) for number in (*self._seed, index))
        clean = torch.from_numpy(altered)
        return Segment(clean if heard is altered else torch.from_numpy(heard), clean, key)

    def _leak(self, numbers: np.random.Generator) -> np.float32:
        """How much more of the rest of a song leaks into a stem: none, half of the time."""
        if self.options.max_leak_db <= _LEAST_LEAK_DB:
            return np.float32(0)
        leaks, leak_db = numbers.random(), numbers.uniform(_LEAST_LEAK_DB, self.options.max_leak_db)
        return np.float32(10 ** (leak_db / 20) if leaks < 0.5 else 0.0)

    def _draw(self, numbers: np.random.Generator, index: int) -> "_Drawn":
        """A segment in which the stem is heard, and separated well enough."""
        best: tuple[tuple[bool, float], _Drawn] | None = None
        for _ in range(self.options.n_tries):
            number = int(np.searchsorted(self._ends, numbers.integers(self._ends[-1]), "right"))
            if self.is_valid:
                number = index % len(self.tracks)
            track, start = self.tracks[number], self._start(number, numbers)
            stem = self.options.stem
            if stem == ANY:
                choices = (*sorted(track.files), MIXTURE)
                stem = choices[int(numbers.integers(len(choices)))]
            target, separated = self._read(track.recordings(stem), start), None
            level = level_db(target)
            is_fit = level >= self.options.min_level_db
            if self._pairs and is_fit:
                separated = self._separated(track, start)
                is_fit = level - level_db(target - separated) >= self.options.min_sdr_db
            found = is_fit, level
            if best is None or found > best[0]:
                best = found, _Drawn(track, stem, start, target, separated)
            if is_fit:
                break
        assert best is not None
        drawn = best[1]
        if self._pairs and drawn.separated is None:
            drawn = replace(drawn, separated=self._separated(drawn.track, drawn.start))
        return drawn

    def _start(self, number: int, numbers: np.random.Generator) -> int:
        """A place in a track where a whole segment fits, if one does."""
        start = int(numbers.integers(max(0, self._lengths[number] - self.n_samples) + 1))
        step = max(1, round(self.options.start_step_s * self.sample_rate))
        return start // step * step

    def _elsewhere(self, stem: str, numbers: np.random.Generator) -> tuple[TrackStems, int]:
        """A place in any track with recordings of `stem`."""
        choices = [number for number, track in enumerate(self.tracks) if stem in track.files]
        number = choices[int(numbers.integers(len(choices)))]
        return self.tracks[number], self._start(number, numbers)

    def _separated(self, track: TrackStems, start: int) -> Audio:
        return self._read([self._pairs[track.key]], start)

    def _read(self, files: Sequence[StemFile], start: int) -> Audio:
        return read_sum(
            files,
            start,
            self.n_samples,
            sample_rate=self.sample_rate,
            n_channels=self.n_channels,
        )


@dataclass(frozen=True)
class _Drawn:
    """A place in the library, and what is there."""

    track: TrackStems
    stem: str
    start: int
    target: Audio
    separated: Audio | None


def collate(segments: Sequence[Segment]) -> Batch:
    """Items to a batch, for a DataLoader."""
    target = torch.stack([segment.target for segment in segments])
    is_clean = all(segment.input is segment.target for segment in segments)
    heard = target if is_clean else torch.stack([segment.input for segment in segments])
    return Batch(heard, target, tuple(segment.key for segment in segments))


def open_datasets(
    folder: Path,
    options: DataOptions,
    *,
    sample_rate: int,
    n_channels: int,
    seed: int = 0,
    pairs: Path | None = None,
) -> tuple[SegmentDataset, SegmentDataset]:
    """The datasets to train and to validate on.

    Args:
        folder: the library, see `mssgen.library.stems`.
        options: the recipe's section [data].
        sample_rate: of the segments, Hz, whatever the files have.
        n_channels: of the segments; 1 (the mean of the channels) or 2.
        seed: of what is drawn to train on, 0 or more.
        pairs: what `mssgen data pairs` made of the library; for data.input "separated" only.

    Raises:
        UsageError: no tracks, or none with the stem; no separated stems for them, or of another
            library. AudioError: a file is damaged.
    """
    library = open_library(folder)
    training, validation = (
        SegmentDataset(
            library,
            options,
            sample_rate=sample_rate,
            n_channels=n_channels,
            seed=seed,
            pairs=pairs,
            is_valid=is_valid,
        )
        for is_valid in (False, True)
    )
    return training, validation


def split_tracks(
    library: Library, options: DataOptions
) -> tuple[tuple[TrackStems, ...], tuple[TrackStems, ...]]:
    """The tracks to train and to validate on; those below a folder test are never taken.

    Which tracks validate depends on their names only. Raises UsageError where nothing is left.
    """
    tracks = [
        track
        for track in library.without_test().tracks
        if options.stem == ANY or track.has(options.stem)
    ]
    training = [track for track in tracks if track.split != "valid"]
    if not training:
        raise UsageError(
            f"no track of {library.folder} to train on has the stem {options.stem}; choose another "
            f"data.stem: {', '.join(sorted({s for t in library.tracks for s in t.files})[:20])}"
        )
    validation = [track for track in tracks if track.split == "valid"]
    if not validation:
        by_hash = sorted(training, key=lambda track: hashlib.sha256(track.key.encode()).digest())
        validation = by_hash[: min(options.n_valid_tracks, len(training) // 2)]
        training = [track for track in training if track not in validation]
    if not validation:
        if options.n_valid_tracks:
            _log.warning("one track only: it is used to train and to validate on")
        validation = training
    return tuple(training[: options.max_tracks or None]), tuple(validation)
