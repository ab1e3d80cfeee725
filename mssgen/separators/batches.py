"""Runs a network on batches of segments that shrink where memory is short."""

from collections.abc import Callable

import torch
from torch import Tensor

from mssgen.errors import OutOfMemoryError
from mssgen.memory import is_out_of_memory


class BatchRunner:
    """The part of a separator that runs its network."""

    name: str
    device: str
    batch_size: int
    """Segments per batch, halved whenever memory runs out."""

    def run(
        self,
        network: Callable[[Tensor], Tensor],
        segments: Tensor,
        warn: Callable[[str], None] | None,
    ) -> Tensor:
        """Segments [n, B, C, T] -> stems [n, B, S, C, T] on the CPU; `warn` hears of halvings.

        Raises OutOfMemoryError if memory is too small for a single segment.
        """
        flat = segments.flatten(0, 1)
        results: list[Tensor] = []
        n_done = 0
        while n_done < len(flat):
            try:
                results.append(network(flat[n_done : n_done + self.batch_size]).cpu())
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    cure = "" if self.device == "cpu" else ', or use `device="cpu"`'
                    raise OutOfMemoryError(
                        f"memory on {self.device} is too small for one segment of {self.name}: "
                        f"close other programs{cure}"
                    ) from None
                self.batch_size //= 2
                if warn is not None:
                    warn(f"memory ran out; continuing with `batch_size={self.batch_size}`")
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            n_done += len(results[-1])
        return torch.cat(results).unflatten(0, segments.shape[:2])
