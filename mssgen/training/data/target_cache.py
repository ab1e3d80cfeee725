"""A cache on disk for the latents and codes of segments by a frozen codec."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mssgen.checkpoints.tensor_files import save_tensors
from mssgen.files import whole_file


class TargetCache:
    """Latents (fp16) and codes (int16 where they fit) of segments, one file each.

    Values are rounded when stored; pass computed latents through `rounded` for results that do not
    depend on the state of the cache.

    Args:
        folder: created if missing; may be shared by runs and processes.
        codec_id: id of the codec.
        max_bytes: maximum total size of the files; nothing more is stored beyond it.
    """

    def __init__(self, folder: Path, codec_id: str, *, max_bytes: int = 20 * 2**30) -> None:
        self._folder = folder / codec_id
        self._folder.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._n_bytes = sum(path.stat().st_size for path in self._folder.glob("*.safetensors"))

    def get(self, key: str, scale: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """(latents [D, N] float32, codes [K, N] int64) on the CPU; None if they are not cached.

        `scale` is the divisor of the audio, for codecs that normalise; targets depend on it.
        """
        try:
            tensors = load_file(self._path(key, scale))
            return tensors["latents"].float(), tensors["codes"].long()
        except (OSError, SafetensorError, KeyError):
            return None  # missing or damaged: computed again

    def put(self, key: str, latents: Tensor, codes: Tensor, scale: Tensor | None = None) -> None:
        """Store the latents [D, N] and codes [K, N] of one segment."""
        dtype = torch.int16 if int(codes.max()) < 2**15 else torch.int32
        tensors = {
            "latents": latents.detach().half().cpu().contiguous(),
            "codes": codes.to(dtype).cpu().contiguous(),
        }
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._n_bytes + n_bytes > self._max_bytes:
            return
        with whole_file(self._path(key, scale)) as draft:
            save_tensors(tensors, draft)
        self._n_bytes += n_bytes

    @staticmethod
    def rounded(latents: Tensor) -> Tensor:
        """Latents rounded as `get` returns them."""
        return latents.half().float()

    def _path(self, key: str, scale: Tensor | None) -> Path:
        digest = hashlib.sha256(key.encode())
        if scale is not None:
            digest.update(scale.detach().float().cpu().contiguous().numpy().tobytes())
        return self._folder / f"{digest.hexdigest()[:32]}.safetensors"
