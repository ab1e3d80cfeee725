"""Networks of the demucs package itself: HDemucs, and HTDemucs with options that ours lacks.

The only file that imports demucs.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mssgen.errors import CheckpointError


class OriginalNetwork:
    """A network of the demucs package behind our interface.

    Args:
        architecture: "hdemucs" or "htdemucs".
        options: the constructor's arguments.
        state: its state dict.
        segment_s: length of a segment in seconds; None takes the checkpoint's.

    Raises:
        CheckpointError: the options or tensors do not fit.
    """

    def __init__(
        self,
        architecture: str,
        options: Mapping[str, Any],
        state: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        segment_s: float | None = None,
    ) -> None:
        from demucs.hdemucs import HDemucs
        from demucs.htdemucs import HTDemucs

        kind = {"hdemucs": HDemucs, "htdemucs": HTDemucs}[architecture]
        try:
            self.network = kind(**options)
            self.network.load_state_dict({key: tensor.float() for key, tensor in state.items()})
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"the checkpoint does not fit {architecture}: {reason}") from None
        self.device, self.dtype = torch.device(device), dtype
        self.network.to(self.device).eval()
        self.sources = tuple(self.network.sources)
        self.sample_rate = int(self.network.samplerate)
        self.n_channels = int(self.network.audio_channels)
        self.has_fixed_length = architecture == "htdemucs"
        segment = self.network.segment
        if segment_s is not None and not self.has_fixed_length:
            segment = segment_s
        self.segment_samples = int(segment * self.sample_rate)

    @torch.inference_mode()
    def __call__(self, mixture: Tensor) -> Tensor:
        """[B, C, T] fp32 -> [B, S, C, T] fp32; reduced precision by torch's autocast."""
        is_reduced = self.dtype != torch.float32
        with (
            torch.autocast(self.device.type, self.dtype) if is_reduced else contextlib.nullcontext()
        ):
            stems: Tensor = self.network(mixture.to(self.device, torch.float32))
        return stems.float()
