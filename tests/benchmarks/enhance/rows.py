"""The rows of the benchmark, each measured once and kept."""

import hashlib
import importlib.util
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from songs import Excerpt, write

import mssgen
from mssgen import enhancers
from mssgen.audio.resampling import at_rate
from mssgen.codecs.base import Codec
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.enhancers.blend import Blend
from mssgen.enhancers.chain import StemEnhancer
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.enhancers.loading import Refining, load_enhancer
from mssgen.evaluation.metrics.base import Audio, Metric, Score, TrackAudio
from mssgen.evaluation.metrics.embeddings import EMBEDDINGS, Embedding
from mssgen.evaluation.metrics.frechet import Frames
from mssgen.evaluation.metrics.table import METRICS, codec_hash
from mssgen.evaluation.metrics.tokens import token_metrics
from mssgen.inspection.decibels import rms_db
from mssgen.refiners.refine import Refinement

VERSION = 2
"""Of what a row holds."""
SEPARATED = "separated"
CLEAN = "clean stem"
RAW = "raw"
"""A mode without any blending."""
CDPAM = "cdpam"
_GATE_DB = -60.0
DISTANCES = (
    "usdr",
    "si_sdr",
    "mr_stft",
    "log_mel",
    "rolloff98_octaves",
    "onset_f1",
    "excess",
)
FIRST_TOKEN, MEAN_TOKEN, LOUDNESS = "token_accuracy_1", "token_accuracy_mean", "loudness_diff"


@dataclass(frozen=True)
class Measured:
    """What is known of one row of one stem of one song."""

    row: str
    mode: str
    """Of the blend; "" of what is not enhanced."""
    track: str
    duration_s: float
    values: dict[str, float | None]
    """By metric."""
    reasons: dict[str, str]
    """Of missing values."""
    wall_s: float | None
    """That it took to make the sound."""
    cpu_s: float | None
    frames: Mapping[str, Frames] = field(default_factory=dict, repr=False)
    """Embeddings by name."""

    def known(self, metrics: Iterable[str]) -> list[str]:
        """Those that have a value."""
        return [metric for metric in metrics if self.values.get(metric) is not None]


@dataclass(frozen=True)
class _Sound:
    """What a row sounds like, and what it took."""

    audio: Audio
    wall_s: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True)
class _Row:
    name: str
    mode: str
    identity: list[str]
    """What the sound depends on beside the excerpt."""
    make: Callable[[], _Sound]


class Bench:
    """Makes rows and measures them.

    Args:
        codec: whose effect alone is measured, and whose tokens are counted.
        encoders: by stem, checkpoints by what to call them.
        refiners: by stem, folders; each encoder's codes go through one more time.
        modes: of the blend.
        is_alone: once more as `mssgen enhance` without --mixture gives it.
        cache: folder of results; a row is measured once.
        audio: a folder for the rows' sounds, to hear them; None keeps none.
        overwrite: measure what the cache holds again.
    """

    def __init__(
        self,
        codec: Codec,
        encoders: Mapping[str, Mapping[str, str]],
        *,
        refiners: Mapping[str, str],
        modes: Sequence[str],
        is_alone: bool,
        cache: Path,
        audio: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self._codec, self._codec_hash, self._modes = codec, codec_hash(codec), modes
        self._is_alone = is_alone
        self._cache, self._audio, self._overwrite = cache, audio, overwrite
        self._through: dict[str, CodecEnhancer] = {}
        self._enhancers = {
            stem: {
                label: load_enhancer(path, hears=SEPARATED, stem=stem, device="cpu")
                for label, path in given.items()
            }
            for stem, given in encoders.items()
        }
        for stem, folder in refiners.items():
            given = self._enhancers.get(stem, {})
            refining = Refining(Refinement(), folder)
            given |= {
                f"{label} refined": CodecEnhancer(
                    enhancer.encoder, name=folder, refiner=refining.refiner(enhancer.codec, stem)
                )
                for label, enhancer in given.items()
            }
        self._tokens = token_metrics(codec)[: codec.n_codebooks]
        self.embeddings = _embeddings()

    def measure(self, excerpt: Excerpt, cdpam_seconds: int) -> Iterator[Measured]:
        """All rows of a stem; CDPAM, which is slow, hears so many seconds of it (0: none)."""
        for row in self._rows(excerpt):
            yield self._measured(row, excerpt, cdpam_seconds)

    def _rows(self, excerpt: Excerpt) -> Iterator[_Row]:
        stem, separated, rate = excerpt.stem, excerpt.separated, excerpt.sample_rate
        yield _Row(CLEAN, "", [CLEAN], lambda: _Sound(excerpt.clean))
        yield _Row(SEPARATED, "", [SEPARATED], lambda: _Sound(separated))
        through, name = self._through_codec(stem), self._codec.name
        for what, audio in ((SEPARATED, separated), (CLEAN, excerpt.clean)):
            make = partial(_enhanced, through, audio, rate)
            identity = [what, "through", self._codec_hash]
            yield _Row(f"{what} through {name}", "", identity, make)
        for label, enhancer in self._enhancers.get(stem, {}).items():
            for mode, has_song in itertools.product(self._modes, (True, False)):
                if not has_song and (not self._is_alone or mode == RAW):
                    continue
                make = partial(_blended, excerpt, enhancer, mode, has_song=has_song)
                identity = ["enhanced", _weights(enhancer), mode, _sources_of_blending()]
                alone = [] if has_song else ["alone"]
                name = ", ".join([label, mode, *alone])
                yield _Row(name, mode, [*identity, *alone], make)

    def _through_codec(self, stem: str) -> CodecEnhancer:
        """The codec unchanged: an encoder that begins as the codec's own."""
        if stem not in self._through:
            encoder = StemEncoder(self._codec, StemEncoderOptions(stem=stem)).eval()
            self._through[stem] = CodecEnhancer(encoder, name=self._codec.name, has_own_noise=True)
        return self._through[stem]

    def _measured(self, row: _Row, excerpt: Excerpt, cdpam_seconds: int) -> Measured:
        parts = [VERSION, excerpt.digest, self._codec_hash, *self.embeddings, cdpam_seconds]
        parts += row.identity
        identity = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]
        place = Path(excerpt.song_set, excerpt.track, excerpt.stem)
        path = self._cache / place / f"{identity}.npz"
        wav = None if self._audio is None else self._audio / place / f"{_slug(row.name)}.wav"
        is_heard = wav is None or wav.is_file()
        if is_heard and not self._overwrite and (kept := _read(path)) is not None:
            # The same weights may have another name by now.
            return replace(kept, row=row.name)
        sound = row.make()
        if wav is not None:
            wav.parent.mkdir(parents=True, exist_ok=True)
            write(wav, sound.audio, excerpt.sample_rate)
        scores = self._scores(row, sound.audio, excerpt)
        found = Measured(
            row.name,
            row.mode,
            excerpt.track,
            excerpt.duration_s,
            {name: score.value for name, score in scores.items()},
            {name: score.reason for name, score in scores.items() if score.value is None},
            sound.wall_s,
            sound.cpu_s,
            self._frames(sound.audio, excerpt, cdpam_seconds),
        )
        _keep(path, found)
        return found

    def _frames(self, audio: Audio, excerpt: Excerpt, cdpam_seconds: int) -> dict[str, Frames]:
        frames = {}
        for name, embedding in self.embeddings.items():
            heard = audio
            if name == CDPAM:
                if not cdpam_seconds:
                    continue
                heard = audio[:, _loud_seconds(excerpt, cdpam_seconds)]
            frames[name] = embedding(at_rate(heard, excerpt.sample_rate, embedding.sample_rate))
        return frames

    def _scores(self, row: _Row, audio: Audio, excerpt: Excerpt) -> dict[str, Score]:
        def song(reference: Audio) -> TrackAudio:
            references, estimates = {excerpt.stem: reference}, {excerpt.stem: audio}
            rate = excerpt.sample_rate
            return TrackAudio(excerpt.track, rate, references, estimates, excerpt.mixture)

        def value(metric: Metric, of: TrackAudio) -> Score:
            return metric.measure(of, excerpt.stem)

        with_clean = song(excerpt.clean)
        if row.name == CLEAN:  # for what the mixture hides of it; all else is perfect by definition
            return {"excess": value(METRICS["excess"], with_clean)}
        scores = {name: value(METRICS[name], with_clean) for name in DISTANCES}
        tokens = [value(metric, with_clean) for metric in self._tokens]
        known = [score.value for score in tokens if score.value is not None]
        scores[FIRST_TOKEN] = tokens[0]
        scores[MEAN_TOKEN] = Score(float(np.mean(known))) if known else tokens[0]
        scores[LOUDNESS] = value(METRICS[LOUDNESS], song(excerpt.separated))
        return scores


def _timed(make: Callable[[], Audio]) -> _Sound:
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        audio = make()
    return _Sound(audio, time.perf_counter() - wall, time.process_time() - cpu)


def _enhanced(enhancer: CodecEnhancer, audio: Audio, sample_rate: int) -> _Sound:
    """What the codec makes of a stem, as it is."""
    separate = partial(mssgen.separate, audio, sample_rate, separator=enhancer)
    return _timed(lambda: separate()[enhancer.stem])


def _blended(excerpt: Excerpt, enhancer: CodecEnhancer, mode: str, *, has_song: bool) -> _Sound:
    """The stem as `mssgen separate --enhance` gives it, or `mssgen enhance` without the song."""
    if mode == RAW:
        return _enhanced(enhancer, excerpt.separated, excerpt.sample_rate)
    blended = StemEnhancer(enhancer, Blend(mode))
    mixture = excerpt.mixture if has_song else None
    stem, rate = excerpt.separated, excerpt.sample_rate
    return _timed(lambda: mssgen.enhance(stem, rate, mixture=mixture, enhancer=blended))


def _loud_seconds(excerpt: Excerpt, n: int) -> NDArray[np.int64]:
    """Samples of `n` seconds, evenly spread over those in which the clean stem sounds."""
    rate = excerpt.sample_rate
    n_seconds = max(1, excerpt.clean.shape[1] // rate)
    seconds = np.array_split(np.arange(n_seconds * rate), n_seconds)
    loud = [at for at in seconds if rms_db(excerpt.clean[:, at]) > _GATE_DB] or seconds
    chosen = np.linspace(0, len(loud) - 1, min(n, len(loud))).round().astype(int)
    samples = np.concatenate([loud[index] for index in chosen])
    return samples[samples < excerpt.clean.shape[1]]


@cache
def _sources_of_blending() -> str:
    """A hash of the code: what an earlier state of it gave does not count."""
    folder = Path(enhancers.__file__).parent
    sources = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(sources)).hexdigest()


def _weights(enhancer: CodecEnhancer) -> str:
    """What its sound depends on."""
    digest = hashlib.sha256(codec_hash(enhancer.codec).encode())
    state = enhancer.encoder.state_dict()
    refiner = enhancer.refiner
    for index, network in enumerate(() if refiner is None else refiner.networks):
        state |= {f"refiner.{index}.{key}": part for key, part in network.state_dict().items()}
    for key, tensor in sorted(state.items()):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(tensor.float().numpy()).tobytes())
    how = refiner and refiner.options
    return f"{digest.hexdigest()} {enhancer.n_codebooks} {enhancer.encoder.options} {how}"


def _embeddings() -> dict[str, Embedding]:
    """Those that need no download: of log-mel levels, and CDPAM's where its package is there."""
    names = {"log_mel": "log_mel"}
    if importlib.util.find_spec("cdpam") is not None:
        names[CDPAM] = "cdpam_acoustic"
    return {name: EMBEDDINGS[of] for name, of in names.items()}


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def _read(path: Path) -> Measured | None:
    """What was kept; None where there is nothing, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = {name: arrays[name] for name in arrays.files if name != "facts"}
            return Measured(**json.loads(str(arrays["facts"])), frames=frames)
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _keep(path: Path, found: Measured) -> None:
    facts = {key: value for key, value in vars(found).items() if key != "frames"}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **dict(found.frames))
    os.replace(part, path)
