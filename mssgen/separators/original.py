"""Networks run by the demucs package: HDemucs, and HTDemucs with options that `htdemucs` lacks.

The only module that imports demucs, which is an optional package.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mssgen.checkpoints.blueprints import filled
from mssgen.errors import CheckpointError
from mssgen.extras import require

# In torch's messages about tensors whose shapes do not match.
_SHAPES = re.compile(r"size|shape|dimension|channel|group|pad|invalid for input", re.IGNORECASE)


class OriginalNetwork:
    """A network of the demucs package as a `base.Network`.

    Args:
        architecture: "hdemucs" or "htdemucs".
        options: keyword arguments of its constructor, checked by `demucs_options`.
        state: state dict.
        device, dtype: where it runs, and its precision under torch's autocast.
        segment_s: segment length in seconds; None: the checkpoint's.

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
        build = {
            "hdemucs": require("demucs.hdemucs", "demucs", "this model").HDemucs,
            "htdemucs": require("demucs.htdemucs", "demucs", "this model").HTDemucs,
        }[architecture]
        # Both affect the initial weights only, which do not exist on the meta device.
        unused = {"rescale": 0, "emb_smooth": False}
        try:
            self.network = filled(lambda: build(**{**options, **unused}), state)
        except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit {architecture}: {_first_line(error)}; get the file "
                "again"
            ) from None
        self.architecture = architecture
        self.device, self.dtype = torch.device(device), dtype
        self.network.to(self.device).eval()
        self.sources = tuple(self.network.sources)
        self.sample_rate = int(self.network.samplerate)
        self.n_channels = int(self.network.audio_channels)
        self.has_fixed_length = architecture == "htdemucs"
        self.is_normalised = True
        segment = self.network.segment
        if segment_s is not None and not self.has_fixed_length:
            segment = segment_s
        self.segment_samples = int(segment * self.sample_rate)

    @torch.inference_mode()
    def __call__(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32.

        Raises CheckpointError if the checkpoint's options contradict each other.
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
                raise  # memory or the device, not the options
            raise self._contradiction(error) from None
        return stems.float()

    def _contradiction(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint's options do not make a working {self.architecture} "
            f"({_first_line(error)}): get the file again"
        )


def _first_line(error: Exception) -> str:
    """First line of an error's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
