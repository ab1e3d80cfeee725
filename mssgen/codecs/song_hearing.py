"""The stem codec's encoder with an ear for the song that a stem was separated from.

How loud the song is where the stem sounds tells what leaked into the stem: what is as loud in both
is the stem's own, and what is far softer in the stem than in the song is more likely a rest of
something else. What the separator lost is still in the song, too.
"""

import copy

import torch
from torch import Tensor, nn

from mssgen.codecs.stem_codec import Analysis
from mssgen.codecs.stem_spectrum import Spectrum, to_log


class SongHearingEncoder(nn.Module):
    """Stem and song, as channels [B, 4, T], to latents [B, D, N] of the clean stem.

    At first it is the encoder that it is built from: what it hears of the song comes in behind the
    first layers, through layers of zeros. A song that is silent stands for one that is not at hand.

    Args:
        encoder: of a `StemCodec`, a copy that may change.
    """

    def __init__(self, encoder: nn.Sequential) -> None:
        super().__init__()
        spectrum, analysis = encoder
        assert isinstance(spectrum, Spectrum)
        assert isinstance(analysis, Analysis)
        # First, as whoever streams this counts its layers in the order of the signal.
        self.spectrum, self.analysis = spectrum, analysis
        first = analysis.main[0]
        assert isinstance(first, nn.Conv1d)
        # The principal components by which the stem is seen serve for the song as well.
        self.song = copy.deepcopy(first)
        self.song.bias = None  # silence is nothing
        self.merge = _zeros(first.out_channels + 2 * spectrum.n_levels, first.out_channels)
        self.merge_levels: nn.Conv1d | None = None
        if analysis.levels is not None:
            width = analysis.levels.output.in_channels
            self.merge_levels = _zeros(analysis.n_levels, width)

    def forward(self, audio: Tensor) -> Tensor:
        stem, song = (self.spectrum(audio[:, first : first + 2]) for first in (0, 2))
        n_values = self.spectrum.n_values
        levels, song_levels = (to_log(frames[:, n_values:]) for frames in (stem, song))
        heard = self.merge(torch.cat([self.song(song), song_levels, levels], dim=1))
        if self.merge_levels is None:
            return self.analysis(stem, heard)
        return self.analysis(stem, heard, self.merge_levels(song_levels))


def _zeros(n_in: int, n_out: int) -> nn.Conv1d:
    layer = nn.Conv1d(n_in, n_out, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
