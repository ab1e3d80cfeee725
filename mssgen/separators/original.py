"""Networks of the demucs package itself: HDemucs, and HTDemucs with options that ours lacks.

The only file that imports demucs.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mssgen.checkpoints.blueprints import blueprint, misfit
from mssgen.errors import CheckpointError
from mssgen.extras import missing

# What torch says where tensors do not fit one another.
_SHAPES = re.compile(r"size|shape|dimension|channel|group|pad|invalid for input", re.IGNORECASE)


class OriginalNetwork:
    """A network of the demucs package behind our interface.

    Args:
        architecture: "hdemucs" or "htdemucs".
        options: the constructor's arguments, as `original_options.demucs_options` checks them.
        state: its state dict.
        segment_s: length of a segment in seconds; None takes the checkpoint's.

    Raises:
        CheckpointError: the options or tensors do not fit the network.
        UsageError: the demucs package is not installed.
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
        try:
            from demucs.hdemucs import HDemucs
            from demucs.htdemucs import HTDemucs
        except ModuleNotFoundError as error:
            raise missing(error.name or "demucs", "demucs", "this model") from None

        kind = {"hdemucs": HDemucs, "htdemucs": HTDemucs}[architecture]
        # Neither is of any effect on what is loaded, and both would read the weights.
        unread = {"rescale": 0, "emb_smooth": False}
        try:
            with blueprint():
                self.network = kind(**{**options, **unread})
            problem = misfit(self.network, state)
        except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
            problem = _first_line(error)
        if problem is not None:
            raise CheckpointError(
                f"the checkpoint does not fit {architecture}: {problem}; get the file again"
            )
        weights = {key: tensor.float() for key, tensor in state.items()}
        self.network.load_state_dict(weights, assign=True)
        self.architecture = architecture
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
        """[B, C, T] fp32 -> [B, S, C, T] fp32; reduced precision by torch's autocast.

        Raises CheckpointError where the options, which any file may state, do not fit one another.
        """
        is_reduced = self.dtype != torch.float32
        try:
            with (
                torch.autocast(self.device.type, self.dtype)
                if is_reduced
                else contextlib.nullcontext()
            ):
                stems: Tensor = self.network(mixture.to(self.device, torch.float32))
        except (TypeError, ValueError, IndexError, AssertionError) as error:
            raise self._contradiction(error) from None
        except RuntimeError as error:
            if not _SHAPES.search(str(error)):
                raise  # memory, or the device: nothing that the options could cure
            raise self._contradiction(error) from None
        return stems.float()

    def _contradiction(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint's options make no {self.architecture} that runs "
            f"({_first_line(error)}): get the file again"
        )


def _first_line(error: Exception) -> str:
    """The first line of a library's message, or the kind of error where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
