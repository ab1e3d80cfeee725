"""Choice of the torch device and precision."""

import ctypes
import math
import os
import sys
import time
from pathlib import Path

import torch

from mssgen.errors import UsageError

# A forked process lacks the threads of torch and would wait for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# "max 100000", or microseconds of CPU time per period: the limit of a container.
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_MIN_INTERVAL_S = 0.3  # the kernel counts in steps of 10 ms


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


def usable_threads() -> int:
    """Number of threads to compute with: torch's, but no more than a container's share of CPUs."""
    n_threads = torch.get_num_threads()
    try:
        quota, period = _CONTAINER_LIMIT.read_text(encoding="ascii").split()
        return max(1, min(n_threads, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return n_threads


class FreeThreads:
    """Number of threads that would find a CPU of their own, beside what other programs use.

    Unlike the load average it counts neither this process nor the past. Without /proc/stat (Linux)
    all CPUs count as free.
    """

    def __init__(self) -> None:
        self._start, self._n_busy = _cpu_times(), 0.0

    def __call__(self) -> int:
        """From 1 to `usable_threads()`, measured since the last call."""
        times = _cpu_times()
        if times is not None and self._start is not None:
            elapsed_s, busy_s, own_s = (b - a for a, b in zip(self._start, times, strict=True))
            if elapsed_s >= _MIN_INTERVAL_S:
                self._start, self._n_busy = times, (busy_s - own_s) / elapsed_s
        n_free = len(os.sched_getaffinity(0)) - self._n_busy if times is not None else math.inf
        return max(1, round(min(usable_threads(), n_free)))


def _cpu_times() -> tuple[float, float, float] | None:
    """(now, busy time of all CPUs that this process may use, time of this process) in seconds."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        cpus, tick_s = os.sched_getaffinity(0), 1 / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return None
    busy = 0
    for name, *ticks in map(str.split, lines):
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _idle, _waiting, *interrupts = map(int, ticks[:8])
            busy += user + nice + system + sum(interrupts)
    return time.monotonic(), busy * tick_s, time.process_time()


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
