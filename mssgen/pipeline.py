"""The path of one song through the program.

    mixture [C, T]
        -> stereo pairs [B, 2, T] at the separator's rate       (audio.channels, audio.resampling)
        -> stems [B, S, 2, T]                                   (separators)
        -> enhanced stems [B, S, 2, T], if there are encoders   (enhancers, codecs, refiners)
        -> stems [S, C, T] at the output's rate                 (audio.channels, audio.resampling)
        -> outputs: weighted sums of mixture and stems          (outputs)
        -> files, complete or absent                            (jobs.batch, audio.writing)

Everything is streamed: a song is read twice, once for its level and length and once to be
separated, and never held in memory. `stream_outputs` does this; `separate` and `enhance` wrap it
for arrays, `mssgen.jobs.batch` for files.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mssgen.audio.arrays import as_rate, as_samples
from mssgen.audio.channels import from_pairs, mixed_layout, mixture_blocks, n_mixed, to_pairs
from mssgen.audio.encodings import AudioInfo
from mssgen.audio.reading import MAX_CHANNELS, AudioSource, Source, check_finite, open_source
from mssgen.audio.resampling import BLOCK_SAMPLES, fit_length, out_samples, resample
from mssgen.audio.speakers import usual_layout
from mssgen.checkpoints.registry import shipped_encoders
from mssgen.checkpoints.resolving import resolve
from mssgen.devices import choose_device, choose_precision
from mssgen.enhancers import loading
from mssgen.enhancers.blend import Blend, Changes
from mssgen.enhancers.chain import EnhancedSeparator, StemEnhancer, check_mixture
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.enhancers.loading import Refining
from mssgen.errors import UsageError
from mssgen.events import Enhanced, Hook, Progress, Warned, ignore
from mssgen.memory import tells_of_memory
from mssgen.outputs import OutputPlan, plan_outputs
from mssgen.separators.base import Level, Separator, measure_level
from mssgen.separators.demucs import SeparationOptions
from mssgen.separators.loading import build_separator
from mssgen.streams import align

Audio = str | Path | ArrayLike | torch.Tensor


@dataclass(frozen=True)
class Measured:
    """Result of the first pass over a song."""

    n_samples: int
    """Length at the rate of the input."""
    level: Level
    """Level of the mixture at the rate of the separator."""


@tells_of_memory("loading the model")
def load_separator(
    model: str = "htdemucs",
    *,
    encoders: Sequence[str] = (),
    refining: Refining | None = None,
    blend: Blend | None = None,
    stems: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    options: SeparationOptions | None = None,
    offline: bool = False,
    progress: bool = False,
    accept_unlicensed: bool = False,
) -> Separator:
    """Load a separator, once for any number of songs.

    Args:
        model: a name from `mssgen models list`, or the path of a checkpoint.
        encoders: checkpoints of stem encoders, trained on separated stems, that enhance the stems.
        refining: refiners of the encoders' codes; None keeps the codes.
        blend: of stems and enhanced stems; None: see `mssgen.enhancers.loading.default_mode`.
        stems: stems that will be asked for, so that a bag of models loads only what they need.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16".
        options: overlap, shifts, seed, batch size.
        offline, progress: never contact the hub; draw a bar on standard error while downloading.
        accept_unlicensed: load files whose origin is in doubt, see `mssgen.checkpoints.warned`.

    Raises:
        UsageError: an unknown model, stem, device or precision, an encoder for another stem, no
            fitting refiner, or a file that needs `accept_unlicensed`.
        CheckpointError: the checkpoint is missing, damaged or untrusted.
    """
    chosen, hub = choose_device(device), {"offline": offline, "progress": progress}
    choose_precision(precision, chosen)  # find a wrong name before a download
    resolved = resolve(model, wanted_stems=stems, stage="separate", **hub)
    separator = build_separator(resolved, chosen, precision, options, accept_unlicensed)
    enhancers: dict[str, CodecEnhancer] = {}
    for checkpoint in encoders:
        enhancer = loading.load_enhancer(
            checkpoint, hears="separated", refining=refining, device=device, offline=offline
        )
        if enhancer.stem not in separator.sources:
            given = ", ".join(separator.sources)
            raise UsageError(f"{checkpoint} is for the stem {enhancer.stem}, not for {given}")
        if enhancer.stem in enhancers:
            raise UsageError(f"two of the encoders are for the stem {enhancer.stem}; name one")
        enhancers[enhancer.stem] = enhancer
    blend = blend or Blend(loading.default_mode(refining, encoders))
    return EnhancedSeparator(separator, enhancers, blend) if enhancers else separator


def separate(
    audio: Audio,
    sample_rate: float | None = None,
    *,
    stems: Sequence[str] = (),
    two_stems: str | None = None,
    without: Sequence[str] = (),
    residual: bool = False,
    mix_consistent: bool = False,
    downmix: bool = False,
    separator: Separator | None = None,
    model: str = "htdemucs",
    device: str = "auto",
    precision: str = "auto",
    options: SeparationOptions | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Separate one song into arrays.

    Args:
        audio: a sound file, or samples [C, T] or [T], numpy or torch, with full scale at 1; six
            channels are taken as 5.1 in WAV order (L R C LFE and two surrounds).
        sample_rate: rate of the samples in Hz, an integer from 8000 to 192000; not for files.
        stems, two_stems, without, residual, mix_consistent: see `mssgen.outputs.plan_outputs`.
        downmix: downmix more than two channels to stereo.
        separator: from `load_separator`; None loads `model` with `device`, `precision`, `options`.
        strict: refuse an incomplete file; otherwise a warning is logged.

    Returns:
        {name: [C, T]} fp32 at the rate, channels and length of the input: CPU tensors if `audio`
        is a tensor, else numpy arrays.

    Raises:
        UsageError: a wrong option. AudioError: the sound cannot be read. CheckpointError: the
        model cannot be loaded. OutOfMemoryError: not even one segment fits.
    """
    if separator is None:
        separator = load_separator(model, device=device, precision=precision, options=options)
    plan = plan_outputs(
        separator.sources,
        stems=stems,
        two_stems=two_stems,
        without=without,
        residual=residual,
        mix_consistent=mix_consistent,
    )
    with ExitStack() as stack:
        source = _opened(audio, sample_rate, stack, strict=strict)
        measured = measure(source, separator, downmix=downmix)
        pieces = list(stream_outputs(source, measured, separator, plan, downmix=downmix))
    return dict(zip(plan.names, _joined(pieces, like=audio), strict=True))


def load_enhancer(
    stem: str | None = None,
    *,
    encoder: str | None = None,
    refining: Refining | None = None,
    blend: str | None = None,
    mix: float = 1.0,
    device: str = "auto",
    offline: bool = False,
    progress: bool = False,
) -> StemEnhancer:
    """Load the enhancer of a stem once, for any number of recordings.

    Args:
        stem: "bass", "drums", ...; None takes the encoder's.
        encoder: a name from `mssgen models list`, or the path of a checkpoint; None takes the one
            that ships for the stem.
        refining: what rewrites the encoder's codes; None leaves them.
        blend: "auto", "fill", "full" or None, as in `load_separator`.
        mix: from 0, the stem as it was, to 1, the blend.
        device, offline, progress: as in `load_separator`.

    Raises:
        UsageError: no encoder ships for the stem, the encoder is for another one, or an option is
            wrong.
        CheckpointError: the checkpoint is out of reach, damaged or untrusted.
    """
    mode = blend or loading.default_mode(refining, () if encoder is None else (encoder,))
    blended, shipped = Blend(mode, mix), shipped_encoders()  # a wrong word is found first
    if encoder is None and stem is None:
        raise UsageError('say which stem the audio is (`stem="bass"`), or name an `encoder`')
    if encoder is None and stem not in shipped:
        raise UsageError(
            f"no encoder ships for the stem {stem}, only for {', '.join(shipped)}: give one of "
            "yours with `encoder`"
        )
    load = partial(loading.load_enhancer, hears="separated", refining=refining, device=device)
    made = load(encoder or shipped[str(stem)], stem=stem, offline=offline, progress=progress)
    return StemEnhancer(made, blended)


def enhance(
    audio: Audio,
    sample_rate: float | None = None,
    *,
    mixture: Audio | None = None,
    stem: str | None = None,
    encoder: str | None = None,
    blend: str | None = None,
    mix: float = 1.0,
    enhancer: StemEnhancer | None = None,
    downmix: bool = False,
    device: str = "auto",
    strict: bool = False,
) -> Any:
    """Remove bleed from a separated stem, and restore what the separator lost.

    Args:
        audio: a sound file, or samples [C, T] or [T], as in `separate`.
        sample_rate: of the samples, and of the mixture's, in Hz; left out for files.
        mixture: what the stem was separated from, of the same length, a file or samples; the
            encoders of bass and drums add nothing without it.
        stem, encoder, blend, mix, device: see `load_enhancer`.
        enhancer: from `load_enhancer`, instead of these five.
        downmix: mix more than two channels to stereo.
        strict: refuse a file of which something is missing; otherwise a warning is logged.

    Returns:
        [C, T] fp32 with the rate, channels and length of the stem; a tensor (on the CPU) where a
        tensor came in, else a numpy array.

    Raises:
        UsageError: a wrong option, or a mixture of another length. AudioError: the audio cannot be
        read. CheckpointError: the encoder cannot be loaded.
    """
    if enhancer is None:
        enhancer = load_enhancer(stem, encoder=encoder, blend=blend, mix=mix, device=device)
    elif stem not in (None, enhancer.stem):
        raise UsageError(f"the enhancer is for the stem {enhancer.stem}, not for {stem}")
    plan = plan_outputs(enhancer.sources)
    with ExitStack() as stack:
        source = _opened(audio, sample_rate, stack, strict=strict)
        beside = None
        if mixture is not None:
            beside = _opened(mixture, sample_rate, stack, strict=strict)
            check_mixture(source, beside, enhancer.sample_rate, downmix=downmix)
        measured = measure(source, enhancer, downmix=downmix)
        pieces = list(
            stream_outputs(source, measured, enhancer, plan, downmix=downmix, mixture=beside)
        )
    return _joined(pieces, like=audio)[0]


def _opened(
    audio: Audio, sample_rate: float | None, stack: ExitStack, *, strict: bool
) -> "AudioSource | _ArraySource":
    if isinstance(audio, str | Path):
        return stack.enter_context(open_source(audio, strict=strict))
    return _ArraySource.from_samples(audio, sample_rate)


def _joined(pieces: list[list[NDArray[np.float32]]], *, like: object) -> list[Any]:
    """Each output [C, T] of pieces in step, as a tensor where `like` is one, else an array."""
    joined = [np.concatenate(output, axis=-1) for output in zip(*pieces, strict=True)]
    return [torch.from_numpy(x) for x in joined] if isinstance(like, torch.Tensor) else joined


def measure(source: Source, separator: Separator, *, downmix: bool = False) -> Measured:
    """First pass over a song: measure length and level; AudioError for NaN and infinity."""
    n_samples = 0

    def counted() -> Iterator[NDArray[np.float32]]:
        nonlocal n_samples
        for block in _checked(source):
            n_samples += block.shape[-1]
            yield block

    mixture = mixture_blocks(counted(), source.info, downmix=downmix)
    level = measure_level(_at_model(mixture, source.info, separator, downmix=downmix))
    return Measured(n_samples, level)


def _checked(source: Source) -> Iterator[NDArray[np.float32]]:
    """Blocks [C, T'] of a source; AudioError where a sample is not a number."""
    n_samples = 0
    for block in source.blocks():
        check_finite(block, n_samples, source.info.sample_rate, source.name)
        n_samples += block.shape[-1]
        yield block


def stream_outputs(
    source: Source,
    measured: Measured,
    separator: Separator,
    plan: OutputPlan,
    *,
    sample_rate: int | None = None,
    downmix: bool = False,
    mixture: Source | None = None,
    hook: Hook = ignore,
) -> Iterator[list[NDArray[np.float32]]]:
    """Second pass over a song: yield one block [C, T'] per output of the plan at a time.

    The source of a `StemEnhancer` is a stem; `mixture` is what it was separated from, if known.
    The outputs have the length of the input, at `sample_rate` (Hz) if given.
    """
    info, n_stems = source.info, len(plan.stems)
    out_rate = sample_rate or info.sample_rate
    n_channels = n_mixed(info.n_channels, downmix=downmix)
    n_samples = out_samples(measured.n_samples, info.sample_rate, out_rate)
    duration_s = measured.n_samples / info.sample_rate

    def warn(message: str) -> None:
        hook(Warned(source.name, message))

    # Two readers of one stream, at most a few segments apart.
    to_separate, original = itertools.tee(mixture_blocks(source.blocks(), info, downmix=downmix))
    stream: Callable[..., Iterator[torch.Tensor]] = separator.stream
    changes: dict[str, Changes] = {}
    if isinstance(separator, EnhancedSeparator | StemEnhancer):
        stream = partial(stream, changes=changes)
    if mixture is not None:
        beside = mixture_blocks(_checked(mixture), mixture.info, downmix=downmix)
        song = _at_model(beside, mixture.info, separator, downmix=downmix)
        stream = partial(stream, mixture=song)
    separated = stream(
        _at_model(to_separate, info, separator, downmix=downmix),
        measured.level,
        stems=plan.stems,
        warn=warn,
    )
    # Stems share one resampler: [S, C, T'] as S * C channels.
    layout = mixed_layout(info, downmix=downmix)
    stems = (
        from_pairs(block, n_channels, layout).reshape(n_stems * n_channels, -1)
        for block in separated
    )
    at_output = fit_length(
        resample(stems, n_stems * n_channels, separator.sample_rate, out_rate),
        n_stems * n_channels,
        n_samples,
    )
    reference = fit_length(
        resample(original, n_channels, info.sample_rate, out_rate), n_channels, n_samples
    )
    n_done = 0
    for mixture_block, stem_block in align([reference, at_output]):
        yield plan.mix(mixture_block, stem_block.reshape(n_stems, n_channels, -1))
        n_done += mixture_block.shape[-1]
        hook(Progress(source.name, n_done / out_rate, duration_s))
    for stem, change in changes.items():
        hook(Enhanced(source.name, stem, change.taken_away_db, change.added_db))


def _at_model(
    mixture: Iterable[NDArray[np.float32]], info: AudioInfo, separator: Separator, *, downmix: bool
) -> Iterator[torch.Tensor]:
    """Blocks [C, T'] of the mixture as pairs [B, 2, T'] at the separator's rate."""
    n_channels = n_mixed(info.n_channels, downmix=downmix)
    layout = mixed_layout(info, downmix=downmix)
    at_rate = resample(mixture, n_channels, info.sample_rate, separator.sample_rate)
    return (to_pairs(block, layout) for block in at_rate if block.shape[-1])


@dataclass(frozen=True)
class _ArraySource:
    """Samples [C, T] in memory as a `Source`."""

    samples: NDArray[np.float32]
    info: AudioInfo
    name: str = "the array"

    @staticmethod
    def from_samples(
        samples: ArrayLike | torch.Tensor, sample_rate: float | None
    ) -> "_ArraySource":
        sample_rate, array = as_rate(sample_rate), as_samples(samples)
        if len(array) > MAX_CHANNELS:
            raise UsageError(f"samples must be [C, T], and {list(array.shape)} looks like [T, C]")
        layout = usual_layout(len(array), "array")
        info = AudioInfo(sample_rate, len(array), "array", "FLOAT", layout)
        return _ArraySource(array, info)

    @property
    def n_samples(self) -> int:
        return self.samples.shape[-1]

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
        for start in range(0, self.samples.shape[-1], block_samples):
            yield self.samples[:, start : start + block_samples]
