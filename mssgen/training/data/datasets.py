"""Training segments: pairs of a model's input and the clean stem, drawn from a library.

Item i of a dataset is a pure function of the seed and of i, for every i >= 0. A resumed training,
with any number of workers or devices, thus continues with the same data:

    DataLoader(dataset, batch_size, sampler=range(n_items_done, n_items), collate_fn=collate)
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from mssgen.audio.levels import level_db
from mssgen.encoders.stem_encoder import Input
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
from mssgen.recipes.schema import Count, PositiveCount, Share
from mssgen.recipes.sections import check_fields
from mssgen.training.data.augment import AUGMENTED, NO_CHANGE, Augmentation, add_noise, draw_change
from mssgen.training.data.pairs import open_pairs, paired
from mssgen.training.task import Batch

ANY = "any"
_PAIRED = ("separated", "separated+mixture")
_LEAST_LEAK_DB = -60.0
_log = logging.getLogger(__name__)
Audio = NDArray[np.float32]


@dataclass(frozen=True)
class DataOptions:
    """Section [data]: target, input, segments and augmentation; raises UsageError for conflicts."""

    stem: str = "bass"
    """The target: a stem of the library, by its file name. With clean or noisy input also
    "mixture", or "any": one of the track's stems or its mixture, with equal probability."""
    named: tuple[str, ...] = NAMED
    """The stem "other" is the sum of all stems except these. For separated input, name the stems
    of the separation model."""
    input: Input = "separated"
    """Input of the model: "separated" (from the pairs folder), "separated+mixture" (the same, plus
    the mixture as further channels), "mixture", "noisy" (the target plus white noise) or "clean"
    (the target itself, to train codecs)."""
    p_alone: Share = 0.0
    """Probability that the mixture of "separated+mixture" is silent, as if it were not given."""
    max_leak_db: Annotated[float, Field(ge=_LEAST_LEAK_DB, le=0)] = _LEAST_LEAK_DB
    """Half of the time, the rest of the mixture is added to the separated stem of
    "separated+mixture" as bleed, with a gain from -60 dB up to this; -60 adds none. Released music
    bleeds more than rendered music."""
    min_sdr_db: Annotated[float, Field(ge=-200, le=60)] = -200.0
    """Segments whose separated stem has a lower SDR are drawn again: labels of rendered instruments
    are guesses, so a pair may hold two different instruments."""
    segment_s: Annotated[float, Field(gt=0, le=3600)] = 16.0
    """Length of the segments, seconds."""
    start_step_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Segments start at multiples of this, seconds, so that they recur and results can be cached; 0
    starts at any sample."""
    min_level_db: float = -60.0
    """Segments whose target has a lower level (RMS, dB of full scale) are drawn again."""
    n_tries: PositiveCount = 8
    """Maximum number of draws per segment; then the loudest one is taken."""
    noise_db: Annotated[float, Field(ge=-200, le=60)] = -20.0
    """Level of the noise of noisy input, dB relative to the target's level in the segment."""
    n_valid_tracks: Count = 5
    """Number of validation tracks for a library without a folder "valid", as in the thesis (section
    6.2.2); at most half of the tracks. 0 validates on the training tracks, to test overfitting."""
    max_tracks: Count = 0
    """Maximum number of training tracks (1: overfit one song); 0 takes all."""
    fixed_segment: bool = False
    """Train and validate on one and the same segment, to test overfitting."""
    augment: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_fields(self, "data")
        if self.stem in (MIXTURE, ANY) and self.input in (*_PAIRED, "mixture"):
            raise UsageError(f'data.stem "{self.stem}" needs data.input "clean" or "noisy"')
        if {OTHER, MIXTURE, ANY} & set(self.named):
            raise UsageError(
                f"data.named lists what is not {OTHER}; leave out {OTHER}, {MIXTURE} and {ANY}"
            )
        # A remixed mixture was never separated, and without a mixture there is nothing to remix.
        if self.augment.p_remix and self.input != "mixture":
            raise UsageError(
                f'data.augment.p_remix works with data.input "mixture" only, not "{self.input}"; '
                "set it to 0"
            )


@dataclass(frozen=True)
class Segment:
    """One item of a dataset."""

    input: Tensor
    """Input of the model, [C, T] float32, or [2 C, T] with the mixture as further channels; for
    clean input the same tensor as `target`."""
    target: Tensor
    """The clean stem, [C, T] float32."""
    key: str
    """TRACK/STEM@START+LENGTH#FINGERPRINT, in samples at the dataset's rate; for an augmented
    segment followed by `AUGMENTED`, seed and index."""


class SegmentDataset(Dataset[Segment]):
    """Random segments of the tracks, uniform over the total duration.

    Validation segments are spread evenly over the tracks and do not depend on the seed.
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
            raise UsageError(f"`seed={seed}` is negative; use 0 or more")
        library = library.naming(options.named)
        if pairs is not None and options.input in _PAIRED:
            library = paired(library, pairs)
        training, validation = split_tracks(library, options)
        self.options, self.sample_rate, self.n_channels = options, sample_rate, n_channels
        # The fixed segment is the same for training and validation.
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
                    "data pairs` and name their folder with `pairs`"
                )
            self._pairs = open_pairs(pairs, self.tracks, options.stem)

    def __len__(self) -> int:
        """Number of segments that would cover the tracks once."""
        if self.options.fixed_segment:
            return 1
        return max(1, int(self._ends[-1]) // self.n_samples)

    def __getitem__(self, index: int) -> Segment:
        """Item `index`, which may exceed the length: the dataset is endless."""
        # Position and alteration have separate generators: a fixed segment still gets new noise.
        place = [*self._seed, 0 if self.options.fixed_segment else index]
        drawn = self._draw(np.random.default_rng(place), index)
        track, stem, start, target = drawn.track, drawn.stem, drawn.start, drawn.target
        numbers = np.random.default_rng([*self._seed, index, 1])
        others = [other for other in track.files if other not in track.parts(stem)]
        is_mixture = self.options.input == "mixture"
        # A track with one stem and the mixture cannot be remixed.
        is_fixed = self.is_valid or self.options.fixed_segment or (is_mixture and not others)
        augment = Augmentation() if is_fixed else self.options.augment
        change = draw_change(augment, numbers, self.n_channels)
        altered, is_altered = change(target), change != NO_CHANGE
        heard = altered
        if drawn.separated is not None:
            # Altered like the target: it belongs to the real mixture.
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
            else:  # the mastered mixture if there is one
                heard = self._read(track.recordings(MIXTURE), start)
        key = f"{track.key}/{stem}@{start}+{self.n_samples}#{track.fingerprint}"
        if is_altered:
            key += AUGMENTED + "-".join(str(number) for number in (*self._seed, index))
        clean = torch.from_numpy(altered)
        return Segment(clean if heard is altered else torch.from_numpy(heard), clean, key)

    def _leak(self, numbers: np.random.Generator) -> np.float32:
        """Linear gain of the bleed to add to a separated stem; 0 half of the time."""
        if self.options.max_leak_db <= _LEAST_LEAK_DB:
            return np.float32(0)
        leaks, leak_db = numbers.random(), numbers.uniform(_LEAST_LEAK_DB, self.options.max_leak_db)
        return np.float32(10 ** (leak_db / 20) if leaks < 0.5 else 0.0)

    def _draw(self, numbers: np.random.Generator, index: int) -> "_Drawn":
        """A segment whose target reaches `min_level_db` and whose input reaches `min_sdr_db`."""
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
        """A random start, samples, such that the segment ends within the track if possible."""
        start = int(numbers.integers(max(0, self._lengths[number] - self.n_samples) + 1))
        step = max(1, round(self.options.start_step_s * self.sample_rate))
        return start // step * step

    def _elsewhere(self, stem: str, numbers: np.random.Generator) -> tuple[TrackStems, int]:
        """A random track with the stem, and a start in it, samples."""
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
    """A drawn segment and its audio [C, T]."""

    track: TrackStems
    stem: str
    start: int
    target: Audio
    separated: Audio | None


def collate(segments: Sequence[Segment]) -> Batch:
    """Stack items to a batch, for a DataLoader."""
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
    """The training and the validation dataset.

    Args:
        folder: the library, see `mssgen.library.stems`.
        options: the recipe's section [data].
        sample_rate: sample rate of the segments, Hz; files are resampled.
        n_channels: channels of the segments: 1 (the mean of the channels) or 2.
        seed: random seed of the training segments, 0 or more.
        pairs: folder of separated stems from `mssgen data pairs`, for separated input only.

    Raises:
        UsageError: there are no tracks with the stem, or no separated stems for them.
        AudioError: a file is damaged.
    """
    library = open_library(folder)
    for place, reason in library.unreadable.items():
        _log.warning("left out: %s %s", place, reason)
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
    """The training and the validation tracks, without those in the folder test.

    The choice of validation tracks depends on their names only. Raises UsageError if there are no
    training tracks.
    """
    tracks = [
        track
        for track in library.without_test().tracks
        if options.stem == ANY or track.has(options.stem)
    ]
    training = [track for track in tracks if track.split != "valid"]
    if not training:
        raise UsageError(
            f"no training track of {library.folder} has the stem {options.stem}; choose another "
            f"data.stem: {', '.join(sorted({s for t in library.tracks for s in t.files})[:20])}"
        )
    validation = [track for track in tracks if track.split == "valid"]
    if not validation:
        by_hash = sorted(training, key=lambda track: hashlib.sha256(track.key.encode()).digest())
        validation = by_hash[: min(options.n_valid_tracks, len(training) // 2)]
        training = [track for track in training if track not in validation]
    if not validation:
        if options.n_valid_tracks:
            _log.warning("only one track: it is used for training and validation")
        validation = training
    return tuple(training[: options.max_tracks or None]), tuple(validation)
