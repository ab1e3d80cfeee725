"""Hybrid Transformer Demucs for inference, laid out for speed.

The network of Rouard, Massa and Défossez, "Hybrid Transformers for Music Source Separation" (2022):
two U-Nets, one on the complex spectrogram and one on the waveform, joined by a cross-domain
transformer at the bottom. It is built from the state dict of a published checkpoint (Demucs v4).
The computation is a new implementation with the same result in another order:

* Channels are the last axis in memory, so every convolution is a matrix product on contiguous rows
  and nothing is transposed between layers.
* A spectrogram layer is local in frequency, so it runs in blocks of a few rows of bins: at equal
  speed that takes a third less memory.
* The second group norm of each residual branch is folded into the 1x1 convolution before it: the
  mean and variance of its output follow from the second moments of its eight times narrower input.
* Constant scales (layer scale, embeddings) are applied once, when the network is built.
* Reduced precision holds the weights and activations of the convolutions and products; Fourier
  transforms, statistics, the transformer's residual stream and the last layer stay in fp32.
* On a CPU, segments run in parallel, each on its own cores: a segment has thousands of small steps,
  and cores that share a step wait for each other after each one, above all on a busy machine. So a
  lone segment gets only the cores that other programs leave free.
* The order of sums does not depend on the number of threads, nor does the result.

Activations: spectrogram branch [B, F, N, C] (bins, frames), waveform branch [B, T, C].
"""

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from mssgen.devices import FreeThreads, usable_threads
from mssgen.separators.htdemucs.layers import (
    EPS,
    Decoder,
    Encoder,
    Linear,
    Norm,
    TransformerLayer,
    Weights,
)
from mssgen.separators.htdemucs.spectrogram import to_spectrogram, to_waveform
from mssgen.separators.htdemucs.state import HTDemucsConfig, check_state

_MIN_STD = 1e-20
_BLOCK_BYTES = 2**19  # activations of one block of rows


class HTDemucs:
    """Hybrid Transformer Demucs, ready to run; a `base.Network`.

    Args:
        config: the checkpoint's configuration.
        state: its state dict in any floating dtype.
        device: where it runs.
        dtype: fp32, bf16 or fp16, for weights and activations.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of the wrong shape.
    """

    def __init__(
        self,
        config: HTDemucsConfig,
        state: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.device, self.dtype = config, torch.device(device), dtype
        self.sources, self.sample_rate = config.sources, config.samplerate
        self.n_channels = config.audio_channels
        self.segment_samples = config.segment_samples
        self.has_fixed_length = True
        self.is_normalised = True
        check_state(config, state)
        w = Weights(state, self.device, dtype)
        levels, depth = range(config.depth), config.dconv_depth
        self.encoders = [Encoder(w.under(f"encoder.{i}"), depth) for i in levels]
        self.encoders_t = [Encoder(w.under(f"tencoder.{i}"), depth) for i in levels]
        last = config.depth - 1
        self.decoders = [Decoder(w.under(f"decoder.{i}"), depth, is_last=i == last) for i in levels]
        self.decoders_t = [
            Decoder(w.under(f"tdecoder.{i}"), depth, is_last=i == last) for i in levels
        ]
        embedding = w["freq_emb.embedding.weight"]  # [F, C]
        self.freq_embedding = (embedding * config.emb_scale * config.freq_emb)[:, None].to(dtype)
        has_bottom = "channel_upsampler.weight" in w
        names = ("channel_upsampler", "channel_upsampler_t") if has_bottom else ()
        self.widen = [Linear(w.under(name)) for name in names]
        names = ("channel_downsampler", "channel_downsampler_t") if has_bottom else ()
        self.narrow = [Linear(w.under(name)) for name in names]
        t = w.under("crosstransformer")
        self.norms_in = [Norm(t.under("norm_in")), Norm(t.under("norm_in_t"))]
        self.layers = [
            [
                TransformerLayer(t.under(f"{name}.{i}"), config.t_heads)
                for i in range(config.t_layers)
            ]
            for name in ("layers", "layers_t")
        ]
        self.window = torch.hann_window(config.nfft, device=self.device)
        self._free_threads = FreeThreads()
        self._pools: dict[tuple[int, int, int], ThreadPoolExecutor] = {}
        self._positions: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, mixture: Tensor) -> Tensor:
        """Separate segments of exactly `segment_samples`.

        Args:
            mixture: [B, C, T] fp32, normalised to about unit variance.

        Returns:
            [B, S, C, T] fp32, the stems in the order of `sources`.
        """
        mixture = mixture.to(self.device, torch.float32)
        if self.device.type != "cpu":
            return self._forward(mixture)
        return torch.cat(list(self._workers(len(mixture)).map(self._forward, mixture.split(1))))

    def _workers(self, n_segments: int) -> ThreadPoolExecutor:
        """Pool that runs one segment per worker, each on an equal share of the threads."""
        n_threads = usable_threads() if n_segments > 1 else self._free_threads()
        n_workers = min(n_segments, n_threads)
        # A forked process does not inherit threads.
        key = (os.getpid(), n_workers, n_threads // n_workers)
        if key not in self._pools:
            self._pools[key] = ThreadPoolExecutor(
                n_workers, "htdemucs", torch.set_num_threads, key[2:]
            )
        return self._pools[key]

    def _n_block(self, activations: Tensor) -> int:
        """Number of rows F of `activations` [B, F, N, C] to process at a time."""
        if self.device.type != "cpu":
            return activations.shape[1]
        row_bytes = activations[0, 0].numel() * activations.element_size()
        return max(1, min(activations.shape[1], _BLOCK_BYTES // row_bytes))

    @torch.inference_mode()
    def _forward(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] -> stems [B, S, C, T], without parallel segments."""
        n_samples = mixture.shape[-1]
        spectrogram = to_spectrogram(mixture, self.window)  # [B, F, N, 2C]
        x, mean, std = _standardise(spectrogram)
        xt, mean_t, std_t = _standardise(mixture.mT)
        x, xt = x.to(self.dtype), xt.to(self.dtype)

        skips, skips_t, lengths = [], [], []
        for index, (encode, encode_t) in enumerate(
            zip(self.encoders, self.encoders_t, strict=True)
        ):
            lengths.append(xt.shape[1])
            x, xt = encode.spectrogram(x, self._n_block), encode_t.waveform(xt)
            if index == 0:
                x += self.freq_embedding
            skips.append(x)
            skips_t.append(xt)
        x, xt = self._transform(x, xt)
        n_signals = len(self.sources) * self.n_channels
        batch, n_bins, n_frames = spectrogram.shape[:3]
        bins = spectrogram.new_zeros(batch, n_signals, n_frames, n_bins + 1, dtype=torch.complex64)
        for decode, decode_t in zip(self.decoders, self.decoders_t, strict=True):
            out = bins[..., :-1].permute(0, 3, 2, 1) if decode.is_last else None
            x = decode.spectrogram(x, skips.pop(), self._n_block, out)
            xt = decode_t.waveform(xt, skips_t.pop(), lengths.pop())

        # The transform is linear, so `std` scales the samples, which are far fewer than bins.
        offset = mean / std.clamp_min(_MIN_STD)  # a silent segment has none, and stays silent
        bins[..., :-1] += torch.complex(offset, offset)
        waves = to_waveform(bins, self.window, n_samples) * std[..., 0]  # [B, S*C, T]
        waves += xt.mT * std_t + mean_t
        return waves.unflatten(1, (len(self.sources), self.n_channels))

    def _transform(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-domain transformer on [B, F, N, C] and [B, T, C]; shapes stay the same."""
        n_rows, n_frames = x.shape[1:3]
        x = x.flatten(1, 2)
        if self.widen:
            x, xt = self.widen[0](x), self.widen[1](xt)
        y = self.norms_in[0](x.float()) + self._position((n_rows, n_frames), x.shape[-1])
        yt = self.norms_in[1](xt.float()) + self._position((xt.shape[1],), xt.shape[-1])
        for layer, layer_t in zip(*self.layers, strict=True):
            y, yt = layer(y, yt), layer_t(yt, y)
        x, xt = y.to(self.dtype), yt.to(self.dtype)
        if self.narrow:
            x, xt = self.narrow[0](x), self.narrow[1](xt)
        return x.unflatten(1, (n_rows, n_frames)), xt

    def _position(self, shape: tuple[int, ...], width: int) -> Tensor:
        """Sinusoidal position embedding, [T, D] or [F * N, D]; cached per shape."""
        if shape not in self._positions:
            period = self.config.t_max_period
            if len(shape) == 1:
                positions = _positions_1d(shape[0], width, period)
            else:
                positions = _positions_2d(shape[0], shape[1], width, period)
            self._positions[shape] = positions.to(self.device) * self.config.t_weight_pos_embed
        return self._positions[shape]


def _standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x with zero mean and unit standard deviation per example, mean, standard deviation)."""
    dims = tuple(range(1, x.dim()))
    std, mean = torch.std_mean(x, dim=dims, keepdim=True)
    return (x - mean) / (EPS + std), mean, std


def _positions_1d(length: int, width: int, max_period: float) -> Tensor:
    """Position embedding [T, D]: cosines, then sines."""
    half = width // 2
    rates = max_period ** (torch.arange(half) / (half - 1))
    phase = torch.arange(length)[:, None] / rates
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def _positions_2d(n_rows: int, n_frames: int, width: int, max_period: float) -> Tensor:
    """Position embedding [F * N, D]: of the frame in the first half of D, of the row in the second;
    sines and cosines alternate."""
    half = width // 2
    rates = torch.exp(torch.arange(0.0, half, 2) * -(math.log(max_period) / half))

    def interleaved(length: int) -> Tensor:
        phase = torch.arange(0.0, length)[:, None] * rates
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)  # [length, D/2]

    frame = interleaved(n_frames)[None].expand(n_rows, -1, -1)
    row = interleaved(n_rows)[:, None].expand(-1, n_frames, -1)
    return torch.cat([frame, row], dim=-1).flatten(0, 1)
