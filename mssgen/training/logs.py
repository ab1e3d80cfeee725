"""The log of a run: metrics.jsonl, TensorBoard, audio files and spectrograms."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import write_audio
from mssgen.errors import MssgenError
from mssgen.extras import install
from mssgen.files import reported, whole_file

METRICS = "metrics.jsonl"
_N_FFT = 1024
_FLOOR_DB = -80.0


class RunLog:
    """Writes the log of one run folder; only the first process has one."""

    def __init__(self, folder: Path, *, step: int, warn: Callable[[str], None]) -> None:
        """Start a log, or continue it after `step`: lines of later steps are removed.

        `warn` is called once for each part of the log that needs a missing package.
        """
        self._folder, self._warn = folder, warn
        _truncate(folder / METRICS, step)
        self._metrics = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warn(f"there will be no TensorBoard log: {install('tensorboard', 'train')}")
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._draws = True

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl; `kind` is "train" or "valid"; NaN and infinity are null."""
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with reported(self._folder / METRICS):
            self._metrics.write(json.dumps({"step": step, "kind": kind, **plain}) + "\n")
            self._metrics.flush()
            os.fsync(self._metrics.fileno())  # before the checkpoint of that step
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            self._board.flush()

    def sounds(self, step: int, sounds: Mapping[str, Tensor], sample_rate: int) -> None:
        """Write audio [C, T] by name as wav files, and one picture of their spectrograms."""
        folder = self._folder / "audio" / f"step-{step:08d}"
        sounds = {name: sound.detach().float().cpu() for name, sound in sounds.items()}
        try:
            for name, sound in sounds.items():
                target = folder / f"{name}.wav"
                write_audio(target, sound.numpy(), sample_rate, Encoding("wav", "32f"))
        except MssgenError as error:  # invalid audio early on must not end the training
            return self._warn(f"no sounds of step {step}: {error}")
        if self._board is not None:
            for name, sound in sounds.items():
                self._board.add_audio(name, sound.mean(0).clamp(-1, 1), step, sample_rate)
        self._picture(step, sounds, sample_rate, folder / "spectrograms.png")

    def close(self) -> None:
        self._metrics.close()
        if self._board is not None:
            self._board.close()

    def _picture(
        self, step: int, sounds: Mapping[str, Tensor], sample_rate: int, target: Path
    ) -> None:
        if not self._draws:
            return
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.image import imsave
        except ImportError:
            self._draws = False
            return self._warn(f"there will be no spectrograms: {install('matplotlib', 'train')}")
        figure = Figure(figsize=(10, 2.5 * len(sounds)), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for row, (name, sound) in enumerate(sounds.items(), start=1):
            axes = figure.add_subplot(len(sounds), 1, row)
            extent = (0.0, sound.shape[-1] / sample_rate, 0.0, sample_rate / 2000)
            image = spectrogram_db(sound).numpy()
            axes.imshow(
                image, origin="lower", aspect="auto", extent=extent, vmin=_FLOOR_DB, vmax=0.0
            )
            axes.set(title=name, xlabel="time (s)", ylabel="frequency (kHz)")
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        with whole_file(target) as draft:
            imsave(draft, pixels, format="png")
        if self._board is not None:
            self._board.add_image("spectrograms", pixels, step, dataformats="HWC")


def spectrogram_db(sound: Tensor) -> Tensor:
    """Power [F, N] of the mean channel of audio [C, T], dB of a full-scale sine, -80 to 0."""
    window = torch.hann_window(_N_FFT)
    bins = torch.stft(
        sound.mean(0),
        _N_FFT,
        _N_FFT // 4,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    magnitude = 2 * bins.abs() / window.sum()
    return (20 * magnitude.clamp_min(1e-8).log10()).clamp(_FLOOR_DB, 0.0)


def _truncate(path: Path, step: int) -> None:
    """Keep only complete lines of steps up to `step`."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # cut off by the end of the process
            continue
    with whole_file(path) as draft:
        draft.write_text("".join(kept), encoding="utf-8")
