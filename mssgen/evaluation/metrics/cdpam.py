"""Encoder of CDPAM (Manocha et al. 2021), with the weights from the package `cdpam`.

Only the weights file of the package is used: its code does not run with current torch. The file is
a pickle of 2020 that `torch.load(weights_only=True)` cannot read, so the tensors are located by its
own table of contents, and nothing in it is executed.
"""

import hashlib
import importlib.util
import io
import pickletools
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.errors import CheckpointError
from mssgen.extras import missing

SAMPLE_RATE = 22_050
_SHA256 = "453c8b6edee1a94f0120236156436ff28fe4d8d884485e4a67695c8e8570bdfe"
_FILE = "CDPAM_trained/scratchJNDdefault_best_model.pth"
_PREFIX = "base_encoder."
_N_LAYERS, _N_FILTERS, _KERNEL_SIZE = 16, 64, 15


class CdpamEncoder(nn.Module):
    """Audio [B, T] in the range of 16-bit integers to [B, 1024]: 512 acoustic, 512 content."""

    def __init__(self) -> None:
        super().__init__()
        widths = [_N_FILTERS * 2 ** ((layer + 1) // 4) for layer in range(_N_LAYERS)]
        pairs = list(zip([1, *widths], widths, strict=False))
        self.encoder = nn.ModuleList(
            nn.Conv1d(n_in, n_out, _KERNEL_SIZE, padding=_KERNEL_SIZE // 2) for n_in, n_out in pairs
        )
        self.ebatch = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)

    def forward(self, audio: Tensor) -> Tensor:
        hidden = audio[:, None]
        for index, (layer, norm) in enumerate(zip(self.encoder, self.ebatch, strict=True), 1):
            hidden = F.leaky_relu(norm(layer(hidden)), 0.1)
            if index % 4 == 0:
                hidden = hidden[:, :, ::2]
        return hidden.mean(dim=2)


def load_cdpam() -> CdpamEncoder:
    """The trained encoder, frozen.

    Raises UsageError if the package is not installed, CheckpointError if its file is not that of
    release 0.0.6.
    """
    spec = importlib.util.find_spec("cdpam")
    if spec is None or not spec.submodule_search_locations:
        raise missing("cdpam", "cdpam", "this metric")
    path = Path(spec.submodule_search_locations[0]) / _FILE
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise CheckpointError(f"{path} is not the file of cdpam 0.0.6; install that release")
    encoder = CdpamEncoder()
    encoder.load_state_dict(_tensors(data, encoder.state_dict()))
    return encoder.eval().requires_grad_(False)


def _tensors(data: bytes, shapes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the names of `shapes`, from a file in torch's format before 1.6.

    Five pickles (the fourth names each tensor and its storage, the fifth lists the storages) are
    followed by the storages in that order, each as its length and its numbers.
    """
    stream = io.BytesIO(data)
    strings: list[list[str]] = []
    for _ in range(5):
        operations = pickletools.genops(stream)
        strings.append([str(value) for code, value, _ in operations if "STRING" in code.name])
    storage_of: dict[str, str] = {}
    name = ""
    for text in strings[3]:
        if re.fullmatch(r"\d{6,}", text):  # a storage is named by its address in memory
            storage_of.setdefault(name, text)
        elif text not in ("storage", "cpu") and not text.startswith("cuda"):
            name = text
    longs = {key for name, key in storage_of.items() if name.endswith("num_batches_tracked")}
    numbers: dict[str, Tensor] = {}
    for key in strings[4]:
        n_values = int.from_bytes(stream.read(8), "little")
        kind = np.dtype("<i8" if key in longs else "<f4")
        numbers[key] = torch.from_numpy(
            np.frombuffer(stream.read(n_values * kind.itemsize), kind).copy()
        )
    return {
        name: numbers[storage_of[_PREFIX + name]].reshape(like.shape)
        for name, like in shapes.items()
    }
