"""Small models: separators whose right answer is known, a codec of a few thousand weights, and a
stem encoder for it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.seanet import SeanetCodec
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.encoders.files import save_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.refiners.masked_transformer import MaskedTransformer, MaskedTransformerOptions
from mssgen.separators.demucs import DemucsSeparator, Member, SeparationOptions

SOURCES = ("drums", "bass", "other", "vocals")
GAINS = (0.1, 0.2, 0.3, 0.25)


class ToyNetwork:
    """Gives `gains` times its input; counts its calls and the segments that it saw."""

    def __init__(
        self,
        *,
        gains: Sequence[float] = GAINS,
        sources: Sequence[str] = SOURCES,
        sample_rate: int = 8000,
        segment_samples: int = 1000,
        has_fixed_length: bool = True,
        before: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.sources, self.gains = tuple(sources), torch.tensor(gains)
        self.sample_rate, self.n_channels = sample_rate, 2
        self.segment_samples, self.has_fixed_length = segment_samples, has_fixed_length
        self.is_normalised = True
        self.before, self.n_calls, self.n_segments = before, 0, 0

    def __call__(self, mixture: Tensor) -> Tensor:
        if self.before is not None:
            self.before(mixture)
        if self.has_fixed_length:
            assert mixture.shape[-1] == self.segment_samples
        self.n_calls += 1
        self.n_segments += len(mixture)
        return mixture[:, None] * self.gains[:, None, None]


def toy_separator(
    network: ToyNetwork | None = None, *, options: SeparationOptions | None = None
) -> DemucsSeparator:
    """The toy network in the separator of the Demucs family."""
    network = network or ToyNetwork()
    return DemucsSeparator([Member(network, network.sources)], name="toy", options=options)


def snr_db(reference: Tensor, estimate: Tensor) -> float:
    """How far the difference lies below the reference."""
    error = (reference - estimate).double().square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / error.clamp_min(1e-30)))


def tiny_codec(seed: int = 0, **options: object) -> SeanetCodec:
    """A codec of the real architecture with random weights and codebooks, frozen: 8 kHz, hop 8."""
    torch.manual_seed(seed)
    small = {
        "name": "tiny",
        "sample_rate": 8000,
        "ratios": [4, 2],
        "n_filters": 4,
        "latent_dim": 8,
        "n_lstm_layers": 1,
        "n_codebooks": 4,
        "codebook_size": 16,
    }
    codec = SeanetCodec(**{**small, **options})
    for level, layer in enumerate(codec.quantizer.vq.layers):
        # Later levels code smaller residuals, as those of a trained codec do.
        layer._codebook.embed.normal_(std=0.3 * 0.6**level)
        layer._codebook.inited.fill_(1)
    codec.freeze()
    return codec


def tiny_stem_codec(seed: int = 0, *, n_level_codebooks: int = 0) -> StemCodec:
    """Our own codec with random weights, frozen: 8 kHz stereo, hop 32."""
    torch.manual_seed(seed)
    codec = StemCodec(
        name="tiny stem",
        sample_rate=8000,
        n_fft=128,
        hop_length=32,
        width=16,
        n_encoder_blocks=1,
        n_decoder_blocks=2,
        latent_dim=16,
        n_codebooks=4,
        codebook_size=32,
        n_bands=12,
        n_level_codebooks=n_level_codebooks,
        level_width=16,
        n_level_blocks=1,
    )
    codec.freeze()
    return codec


def tiny_refiner(codec: Codec, seed: int = 0, **options: Any) -> MaskedTransformer:
    """A refiner of a few thousand random weights for `codec`; windows of 16 frames."""
    torch.manual_seed(seed)
    small = {"n_codebooks": 4, "n_layers": 2, "n_heads": 2, "width": 16, "window_frames": 16}
    return MaskedTransformer.for_codec(
        codec, MaskedTransformerOptions(**{**small, "n_conditioning": 2, **options})
    ).eval()


def write_tiny_encoder(folder: Path, *, seed: int = 0, codec_name: str = "tiny") -> Path:
    """A stem encoder whose weights are not the codec's any more, with its codec in codec/."""
    encoder = StemEncoder(tiny_codec(name=codec_name), StemEncoderOptions(stem="bass"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    save_stem_encoder(encoder, folder)
    return folder
