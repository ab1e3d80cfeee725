"""Spleeter as a separator, on streams of any length.

As in Deezer's program, the signal is preceded by one window of zeros and cut into blocks of 512
frames that share no frame, and the stems share every bin by the squares of their estimates. The
windows of adjacent blocks overlap, so the sound has no seams, and a stream gives what the whole
song gives, sample by sample. Unlike there, a DC offset is in no stem (see `offset`).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.separators import wiener
from mssgen.separators.base import Level, chosen_stems, measure_level
from mssgen.separators.batches import BatchRunner
from mssgen.separators.spleeter.network import Spleeter
from mssgen.streams import SlidingReader

_EPS = 1e-10
_EPS_WIENER = torch.finfo(torch.float32).eps  # as in norbert, which Deezer's program calls
_BATCH_SIZE_GPU = 8


class SpleeterSeparator(BatchRunner):
    """Separates streams or whole mixtures; a `base.Separator`.

    Args:
        network: from `network.build_network`.
        name: model name shown to users.
        device: where the network runs.
        precision: of its convolutions under torch's autocast: "fp32", "bf16" or "fp16".
        dtype: the same as a type of torch.
        batch_size: blocks per batch; None: chosen for the device.
    """

    def __init__(
        self,
        network: Spleeter,
        *,
        name: str,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        dtype: torch.dtype = torch.float32,
        batch_size: int | None = None,
    ) -> None:
        config = network.config
        self.network = network.to(device)
        self.name, self.device, self.precision, self.dtype = name, str(device), precision, dtype
        self.sources, self.sample_rate, self.n_channels = config.sources, config.samplerate, 2
        self.batch_size = batch_size or (1 if self.device == "cpu" else _BATCH_SIZE_GPU)
        self._window = torch.hann_window(config.n_fft, device=device)
        self._hop = config.n_fft // 4

    @property
    def settings(self) -> str:
        """The options that change the result, as text for tags."""
        config = self.network.config
        iterations = config.wiener_iterations
        filtered = f", wiener_iterations {iterations}" if iterations else ""
        return f"high_frequencies {config.high_frequencies}{filtered}"

    def __call__(self, mixture: Tensor) -> Tensor:
        """Separate whole mixtures [B, C, T] fp32 into stems [B, S, C, T] fp32."""
        return torch.cat(list(self.stream([mixture], measure_level([mixture]))), dim=-1)

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """Separate a stream; memory does not depend on its length. See `base.Separator.stream`.

        Raises:
            UsageError: a stem is not in `sources`.
            OutOfMemoryError: memory is too small for a single block.
        """
        order = [self.sources.index(stem) for stem in chosen_stems(self, stems)]
        if level.is_silent:
            for block in blocks:
                yield block.new_zeros(len(block), len(order), *block.shape[1:])
            return
        n_samples, config = level.n_samples, self.network.config
        length, n_shared = config.n_frames * self._hop, config.n_fft - self._hop
        reader = SlidingReader((block - level.offset[..., None] for block in blocks), n_samples)
        starts = range(-config.n_fft, n_samples, length)
        n_batch = self.batch_size
        tail: Tensor | float = 0.0  # of the windows that reach into the next block
        for index in range(0, len(starts), n_batch):
            batch = starts[index : index + n_batch]
            waves = [reader.read(start, start + length + n_shared) for start in batch]
            reader.forget(batch[-1] + length)
            separated = self.run(lambda wave: self._separate(wave, order), torch.stack(waves), warn)
            for start, wave in zip(batch, separated, strict=True):
                wave[..., :n_shared] += tail
                tail = wave[..., length:].clone()
                first = min(max(0, -start), length)
                if (done := wave[..., first : min(length, n_samples - start)]).shape[-1]:
                    yield done

    @torch.inference_mode()
    def _separate(self, wave: Tensor, order: list[int]) -> Tensor:
        """Blocks [B, C, T] -> the windows of their stems, overlapped and added, [B, S, C, T]."""
        config, hop = self.network.config, self._hop
        wave = wave.to(self.device, torch.float32)
        mixture = torch.fft.rfft(wave.unfold(-1, config.n_fft, hop) * self._window)
        stems = self._filtered(mixture)[:, order]
        # Squared Hann windows with a hop of a quarter of their length sum to 3/2.
        windows = torch.fft.irfft(stems, n=config.n_fft).mul_(self._window / 1.5)
        quarters = windows.unflatten(-1, (4, hop)).unbind(-2)
        sums = [
            F.pad(part.flatten(-2), (index * hop, (3 - index) * hop))
            for index, part in enumerate(quarters)
        ]
        return torch.stack(sums).sum(dim=0)

    def _filtered(self, mixture: Tensor) -> Tensor:
        """Spectrograms of blocks [B, C, N, F] -> of all stems [B, S, C, N, F]."""
        config = self.network.config
        with (
            contextlib.nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(torch.device(self.device).type, self.dtype)
        ):
            estimates = self.network(mixture[..., : config.n_bins].abs()).float()
        if config.wiener_iterations:
            shares = estimates / (estimates.sum(dim=1, keepdim=True) + _EPS_WIENER)
        else:
            power = estimates.square()
            shares = (power + _EPS / len(config.sources)) / (power.sum(1, keepdim=True) + _EPS)
        n_above = mixture.shape[-1] - config.n_bins
        if config.high_frequencies == "average":
            above = shares.mean(dim=-1, keepdim=True).expand(*shares.shape[:-1], n_above)
        else:
            above = shares.new_zeros(*shares.shape[:-1], n_above)
            above[:, -1] = float(config.high_frequencies == "mixture")
        stems = torch.cat([shares, above], dim=-1) * mixture[:, None]
        return wiener.refine(stems, mixture, config.wiener_iterations, eps=_EPS_WIENER)
