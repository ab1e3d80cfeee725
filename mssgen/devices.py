"""Choice of the torch device and precision."""

import ctypes
import os
import sys

import torch

from mssgen.errors import UsageError

# A forked process lacks the threads of torch and would wait for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises UsageError for other names and for devices that are not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise UsageError(f"`device={name!r}` is unknown; use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= n_devices:
            raise UsageError(
                f"`device={name!r}` is not available: torch {torch.__version__} sees {n_devices} "
                "CUDA devices here; use `device='cpu'`, or install a CUDA build of torch"
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("`device='mps'` is not available on this machine; use `device='cpu'`")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """Precision for "auto", "fp32", "bf16" or "fp16".

    "auto" is the fastest precision that keeps the quality, as measured: bf16 on CPUs and CUDA
    devices that compute it in hardware, else fp32. Raises UsageError for other names, and for fp16
    on a CPU.
    """
    if name != "auto" and name not in DTYPES:
        raise UsageError(f"`precision={name!r}` is unknown; use auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type == "cpu":
        raise UsageError("`precision='fp16'` needs a GPU; use bf16 or fp32 on a CPU")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    # torch has no public function for these instruction sets yet.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def share_heaps() -> None:
    """Let all threads share two glibc heaps instead of one per thread, which never shrink.

    Call it before threads start. Lowers peak memory by about a tenth at equal speed (measured on a
    song of minutes). Does nothing with other C libraries.
    """
    m_arena_max = -8  # from malloc.h
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(m_arena_max, 2)
