"""Audio embeddings, and distances between those of estimates and references.

Log-mel statistics, latents of a codec, the network in the package `cdpam`, and networks from the
hub, which are downloaded at first use and have their own licences. Networks are built once per
process, when they are first needed.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mssgen.audio.channels import to_items
from mssgen.audio.resampling import at_rate
from mssgen.codecs.base import Codec
from mssgen.codecs.networks.compat import import_codec_package
from mssgen.codecs.streaming import stream_latents
from mssgen.errors import UsageError
from mssgen.evaluation.metrics.base import Audio, Metric, Score, TrackAudio, Undefined
from mssgen.evaluation.metrics.cdpam import SAMPLE_RATE as CDPAM_RATE
from mssgen.evaluation.metrics.cdpam import load_cdpam
from mssgen.evaluation.metrics.frechet import MIN_FRAMES, Frames, Moments, frechet_distance
from mssgen.evaluation.metrics.signals import audible_pair, per_track
from mssgen.evaluation.metrics.spectral import mel_filters, power, spectra, to_decibels


@dataclass(frozen=True, eq=False)
class Embedding:
    """Audio to embedding frames; `embedding(audio)` maps [C, T] to [N, D] float32."""

    name: str
    """Part of the metric names: "log_mel"."""
    sample_rate: int
    """Input sample rate, Hz."""
    licence: str
    """Licence of the weights."""
    source: str
    """Origin of the weights, and the layer used."""
    frame_s: float
    """Seconds of audio per frame."""
    function: Callable[[Audio], Frames] = field(repr=False)
    package: str = ""
    """Package needed besides the extra `evaluate`."""

    def __call__(self, audio: Audio) -> Frames:
        """Embed audio [C, T] at `sample_rate`; channels are joined as each network requires.

        Raises UsageError if its package or its weights are not available.
        """
        self.check()
        return np.asarray(self.function(audio), np.float32)

    def check(self) -> None:
        """Raise UsageError where the package is not installed."""
        if self.package and importlib.util.find_spec(self.package) is None:
            raise UsageError(
                f"the embedding {self.name} needs the package {self.package} (weights: "
                f"{self.source}, {self.licence}): pip install {self.package}"
            )


@torch.inference_mode()
def _log_mel(audio: Audio) -> Frames:
    """64 mel magnitudes in dB [N, 64], channels joined by mean power, 80 dB of range."""
    filters = mel_filters(44_100, 2048, 64)
    powers = [
        power(block).mean(dim=0).sqrt() for block in spectra(audio, 2048, 1024, pad_mode="constant")
    ]
    return to_decibels(filters @ torch.cat(powers, dim=-1)).T.numpy()


@torch.inference_mode()
def _codec_latents(codec: Codec, audio: Audio) -> Frames:
    """Unquantised latents [N, D]; with a mono codec, of the mid channel only."""
    blocks = in_blocks(codec, codec_items(codec, audio))
    latents = torch.cat([part.cpu() for part in stream_latents(codec, blocks)], dim=-1)
    return latents.transpose(1, 2).flatten(0, 1).float().numpy()


def codec_items(codec: Codec, audio: Audio) -> torch.Tensor:
    """Audio [C, T] as input [B, C, T] of a codec; for a mono codec only mid and unpaired channels,
    as the side channel of stereo is close to silence."""
    items = to_items(np.ascontiguousarray(audio), codec.n_channels)
    return items if codec.n_channels > 1 else items[::2]


def in_blocks(codec: Codec, items: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of 5 s of items [B, C, T], on the codec's device."""
    return (block.to(codec.device) for block in items.split(5 * codec.sample_rate, dim=-1))


_cdpam = cache(load_cdpam)


@torch.inference_mode()
def _cdpam_frames(half: int, audio: Audio) -> Frames:
    """One unit vector [512] per second: the acoustic (0) or the content (1) half."""
    chunks = _seconds(audio, CDPAM_RATE, 1.0) * 2**15
    outputs = [_cdpam()(part)[:, 512 * half : 512 * (half + 1)] for part in chunks.split(16)]
    return F.normalize(torch.cat(outputs), dim=1).numpy()


@cache
def _transformer(kind: str, name: str) -> Any:
    """A pretrained network from the hub; UsageError if it is unavailable or incomplete."""
    network, about = _pretrained(kind, name, output_loading_info=True)
    # transformers would fill missing tensors with random weights.
    if about["missing_keys"]:
        raise _not_loaded(name, f"{min(about['missing_keys'])} is missing")
    return network.eval()


@cache
def _pretrained(kind: str, name: str, **options: bool) -> Any:
    """Something of the package transformers from the hub; no code of the repository is run."""
    # transformers imports torchaudio, as the codec packages do.
    transformers = import_codec_package("transformers")
    try:
        return getattr(transformers, kind).from_pretrained(name, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_loaded(name, str(error).strip().split("\n")[0][:200]) from None


def _not_loaded(name: str, reason: str) -> UsageError:
    return UsageError(
        f"the embedding's network {name} cannot be loaded ({reason}): download it into the "
        "hub's cache first, or choose another embedding"
    )


@torch.inference_mode()
def _clap_frames(name: str, audio: Audio) -> Frames:
    """One vector [512] per 10 s."""
    network = _transformer("ClapModel", name)
    features = _pretrained("ClapFeatureExtractor", name)
    chunks = _seconds(audio, 48_000, 10.0)
    outputs = []
    for chunk in chunks:
        # Chunks are as long as the network's input: nothing is cut or repeated.
        inputs = features(
            chunk.numpy(), sampling_rate=48_000, truncation="rand_trunc", return_tensors="pt"
        )
        found = network.get_audio_features(**inputs)
        outputs.append(getattr(found, "pooler_output", found))
    return torch.cat(outputs).numpy()


@torch.inference_mode()
def _mert_frames(name: str, layer: int, audio: Audio) -> Frames:
    """75 frames per second from one layer of a HuBERT network, in chunks of 5 s as in training."""
    network = _transformer("HubertModel", name)
    outputs = []
    for chunk in _seconds(audio, 24_000, 5.0):
        normal = (chunk - chunk.mean()) / (chunk.var(correction=0) + 1e-7).sqrt()
        found = network(normal[None], output_hidden_states=True)
        outputs.append(found.hidden_states[layer][0])
    return torch.cat(outputs).numpy()


@torch.inference_mode()
def _vggish_frames(audio: Audio) -> Frames:
    """One vector [128] per 0.96 s, before the PCA."""
    from torchvggish import vggish_input

    examples = vggish_input.waveform_to_examples(audio.mean(axis=0), 16_000)
    return np.atleast_2d(_vggish()(torch.as_tensor(examples)).numpy())


@cache
def _vggish() -> nn.Module:
    from torchvggish import vggish

    network: nn.Module = vggish(postprocess=False)
    return network.eval()


def _seconds(audio: Audio, sample_rate: int, length_s: float) -> torch.Tensor:
    """Mean of the channels of [C, T] in chunks [N, T'] of `length_s`, the last one padded."""
    length = round(length_s * sample_rate)
    mono = torch.from_numpy(audio.mean(axis=0, dtype=np.float32))
    return F.pad(mono, (0, -len(mono) % length)).view(-1, length)


def codec_embedding(codec: Codec) -> Embedding:
    """The unquantised latents of a codec, frozen and in eval mode.

    Audio that went through the same codec is close in this space whatever it sounds like: never the
    only metric for codec-based enhancement.
    """
    return Embedding(
        f"latents_{codec.name}".replace("-", "_"),
        codec.sample_rate,
        "the codec's own",
        f"encoder of {codec.codec_id}",
        1 / codec.frame_rate,
        partial(_codec_latents, codec),
    )


_CDPAM_SOURCE = "package cdpam 0.0.6"
_MIT = "MIT (package classifier)"

EMBEDDINGS = {
    embedding.name: embedding
    for embedding in (
        Embedding(
            "log_mel",
            44_100,
            "no weights",
            "64 mel levels in dB (librosa filters, FFT 2048)",
            1024 / 44_100,
            _log_mel,
        ),
        Embedding(
            "cdpam_acoustic",
            CDPAM_RATE,
            _MIT,
            f"{_CDPAM_SOURCE}, acoustic half",
            1.0,
            partial(_cdpam_frames, 0),
            "cdpam",
        ),
        Embedding(
            "cdpam_content",
            CDPAM_RATE,
            _MIT,
            f"{_CDPAM_SOURCE}, content half",
            1.0,
            partial(_cdpam_frames, 1),
            "cdpam",
        ),
        Embedding(
            "clap_music",
            48_000,
            "Apache-2.0",
            "hub laion/larger_clap_music, audio projection",
            10.0,
            partial(_clap_frames, "laion/larger_clap_music"),
            "transformers",
        ),
        Embedding(
            "mert_12",
            24_000,
            "CC BY-NC 4.0",
            "hub m-a-p/MERT-v1-95M, layer 12",
            1 / 75,
            partial(_mert_frames, "m-a-p/MERT-v1-95M", 12),
            "transformers",
        ),
        Embedding(
            "vggish",
            16_000,
            "Apache-2.0",
            "package torchvggish, which downloads Google's weights",
            0.96,
            _vggish_frames,
            "torchvggish",
        ),
    )
}


@per_track
def track_frames(track: TrackAudio, stem: str, is_estimate: bool, embedding: Embedding) -> Frames:
    """Embedding frames [N, D] of an estimate or a reference, remembered per track."""
    audio = (track.estimates if is_estimate else track.references)[stem]
    return embedding(at_rate(audio, track.sample_rate, embedding.sample_rate))


def embedding_metrics(embedding: Embedding) -> list[Metric]:
    """Fréchet distance and mean squared difference between estimate and reference of a track."""
    what = f"{embedding.name} embeddings ({embedding.source}; {embedding.frame_s:.3g} s per frame)"
    return [
        Metric(
            name=f"fad_{embedding.name}",
            title=f"FAD ({embedding.name}, per song)",
            better="lower",
            definition=f"Fréchet distance between the {what} of estimate and reference of the same "
            "track (intrusive, per song: Gui et al. 2024); biased upwards if there are few frames.",
            group="embedding",
            function=partial(_frechet, embedding),
        ),
        Metric(
            name=f"mse_{embedding.name}",
            title=f"Embedding MSE ({embedding.name})",
            better="lower",
            definition=f"Mean squared difference between the time-aligned {what} of estimate and "
            "reference.",
            group="embedding",
            function=partial(_squared_difference, embedding),
        ),
    ]


def _pair(embedding: Embedding, track: TrackAudio, stem: str) -> list[Frames]:
    audible_pair(track, stem)
    return [track_frames(track, stem, is_estimate, embedding) for is_estimate in (False, True)]


def _frechet(embedding: Embedding, track: TrackAudio, stem: str) -> Score:
    ours, theirs = _pair(embedding, track, stem)
    if min(len(ours), len(theirs)) < MIN_FRAMES:
        raise Undefined("fewer than two frames")
    return Score(frechet_distance(Moments.of(ours), Moments.of(theirs)), len(theirs))


def _squared_difference(embedding: Embedding, track: TrackAudio, stem: str) -> Score:
    ours, theirs = _pair(embedding, track, stem)
    n_frames = min(len(ours), len(theirs))
    if not n_frames:
        raise Undefined("no frame")
    difference = theirs[:n_frames].astype(np.float64) - ours[:n_frames]
    return Score(float(np.square(difference).mean()), n_frames)
