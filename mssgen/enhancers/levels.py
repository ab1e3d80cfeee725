"""Match the loudness of one signal to another's, too slowly to be heard as a change of gain."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.enhancers.bounds import Bands, squared
from mssgen.streams import in_context

_STEP_S = 0.5
_MEMORY_S = 10.0
_MAX_CUT_DB = 12.0
_FLOOR = 1e-8
"""Mean square below which a signal counts as silence (-80 dB) and sets no level."""


def match_level(
    pairs: Iterable[tuple[Tensor, Tensor]],
    *,
    sample_rate: int,
    max_boost_db: float,
    is_extended: bool = False,
) -> Iterator[Tensor]:
    """Bring a signal to the loudness of a reference; flat memory.

    Energies are weighted like loudness (ITU-R BS.1770) and averaged with a time constant of ten
    seconds; the gain is the root of their ratio. It moves linearly over each half second, between
    -12 dB and `max_boost_db`. A signal that equals its reference has a gain of exactly 1.

    Args:
        pairs: blocks [B, C, T'] of the reference and of the signal, in step.
        sample_rate: Hz.
        max_boost_db: highest gain, 0 dB or more.
        is_extended: the signal has bands that the reference lacks; match what both have. In bands
            of energies P and Q the gain is then sum P / sum sqrt(P Q), to which a band that is
            silent in one of the two adds nothing.

    Yields:
        The signal in blocks of half a second.
    """
    step = round(_STEP_S * sample_rate)
    bands = Bands(step // 2 + 1)
    weights = loudness_weights(torch.fft.rfftfreq(step, 1 / sample_rate)) / step
    running: Tensor | None = None  # [2, B]
    gain: Tensor | None = None  # [B], at the end of the last block
    stacked = (torch.stack(pair) for pair in pairs)  # [2, B, C, T']
    for block in in_context(stacked, lambda held: held, step=step, context=0):
        n_samples = block.shape[-1]
        spectra = torch.fft.rfft(F.pad(block, (0, step - n_samples)))
        there, given = (weights * squared(spectra)) @ bands.weights.T  # [B, C, K] each
        other = (there * given).sqrt() if is_extended else given
        energies = torch.stack([there, other]).double().sum(dim=(-2, -1))
        energies += _FLOOR * block[0, 0].numel()
        kept = math.exp(-n_samples / sample_rate / _MEMORY_S)
        running = energies if running is None else energies + kept * running
        ratio = running[0] / running[1]
        target = ratio if is_extended else ratio.sqrt()
        target = target.clamp(10 ** (-_MAX_CUT_DB / 20), 10 ** (max_boost_db / 20))
        start = target if gain is None else gain
        ramp = torch.linspace(0, 1, n_samples + 1, dtype=torch.float64)[1:]
        gains = torch.lerp(start[:, None], target[:, None], ramp)[:, None]  # [B, 1, T']
        yield block[1] * gains.float()
        gain = target


def loudness_weights(hz: Tensor) -> Tensor:
    """K-weighting of power at frequencies [F] in Hz: a shelf of +4 dB from 1.7 kHz, no infrasound.

    The analogue prototypes of the two filters of ITU-R BS.1770-4, which prints their coefficients
    for 48 kHz.
    """
    high, low = 1j * hz / 1681.97, 1j * hz / 38.135
    shelf = (1.5849 * high**2 + 1.2587 * high / 0.7072 + 1) / (high**2 + high / 0.7072 + 1)
    high_pass = low**2 / (low**2 + low / 0.5003 + 1)
    return squared(shelf * high_pass)
