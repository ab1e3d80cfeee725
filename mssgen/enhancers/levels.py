"""One signal brought to the loudness of another, so slowly that nobody hears it happen."""

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
"""Mean square of what counts as silence (-80 dB): noises below it do not set a level."""


def match_level(
    signals: Iterable[Tensor],
    *,
    sample_rate: int,
    max_boost_db: float,
    is_extended: bool = False,
) -> Iterator[Tensor]:
    """Bring the second signal to the level of the first; flat memory.

    Energies are weighted like loudness (ITU-R BS.1770) and run with a memory of ten seconds; the
    gain is the root of their ratio. It moves in straight lines from one half second to the next,
    down to -12 dB and up to `max_boost_db`. Equal signals keep a gain of exactly 1.

    Args:
        signals: blocks [V, B, C, T'], V >= 2 signals in step; the third and on pass as they are.
        sample_rate: Hz.
        max_boost_db: 0 or more.
        is_extended: the second has sounds that the first lacks; match what both have. In bands of
            energies P and Q the gain is then sum P / sum sqrt(P Q), to which a band where one of
            them is silent adds nothing.

    Yields:
        The same as blocks of half a second.
    """
    step = round(_STEP_S * sample_rate)
    bands = Bands(step // 2 + 1)
    weights = loudness_weights(torch.fft.rfftfreq(step, 1 / sample_rate)) / step
    running: Tensor | None = None  # [2, B]
    gain: Tensor | None = None  # [B], at the end of the last block
    for block in in_context(signals, lambda held: held, step=step, context=0):
        n_samples = block.shape[-1]
        spectra = torch.fft.rfft(F.pad(block[:2], (0, step - n_samples)))
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
        yield torch.stack([block[0], block[1] * gains.float(), *block[2:]])
        gain = target


def loudness_weights(hz: Tensor) -> Tensor:
    """What loudness weights power by, at frequencies [F]: a shelf of 4 dB from 1.7 kHz, no infra.

    The analogue prototypes of the two filters of ITU-R BS.1770-4, which are printed there as
    coefficients for 48 kHz.
    """
    high, low = 1j * hz / 1681.97, 1j * hz / 38.135
    shelf = (1.5849 * high**2 + 1.2587 * high / 0.7072 + 1) / (high**2 + high / 0.7072 + 1)
    high_pass = low**2 / (low**2 + low / 0.5003 + 1)
    return squared(shelf * high_pass)
