"""The stem codec's encoder with an ear for the song that a stem was separated from.

How loud the song is where the stem sounds tells what leaked into the stem: what is as loud in both
is the stem's own, and what is far softer in the stem than in the song is more likely a rest of
something else. What the separator lost is still in the song, too.
"""

import copy

import torch
from torch import Tensor, nn

from mssgen.codecs.stem_codec import Analysis, Block
from mssgen.codecs.stem_spectrum import Spectrum, to_log

_WIDTH, _EXPANSION, _KERNEL_SIZE = 128, 2, 7
_DILATIONS = (1, 2, 4, 8)  # frames: a second is looked at to either side


class SongHearingEncoder(nn.Module):
    """Stem and song, as channels [B, 4, T], to latents [B, D, N] of the clean stem.

    At first it is the encoder that it is built from: what it hears of the song is added through
    layers of zeros. A song that is silent stands for one that is not at hand.

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
        n_heard = first.out_channels + 2 * spectrum.n_levels
        self.merge = _zeros(nn.Conv1d(n_heard, first.out_channels, 1, bias=False))
        self.levels = LevelEar(analysis.n_levels) if analysis.n_levels else None

    @property
    def ways(self) -> list[nn.Module]:
        """Networks side by side, of which each sees the audio: what `forward` looks around is the
        most that one of them does."""
        networks = (self.analysis.main, self.analysis.levels, self.levels)
        return [nn.Sequential(self.spectrum, each) for each in networks if each is not None]

    def forward(self, audio: Tensor) -> Tensor:
        stem, song = self._frames(audio)
        levels = self._both_levels(stem, song)
        latents = self.analysis(stem, self.merge(torch.cat([self.song(song), levels], dim=1)))
        if self.levels is None:
            return latents
        n_levels = self.analysis.n_levels
        changed = latents[:, -n_levels:] + self.levels(levels).to(latents)
        return torch.cat([latents[:, :-n_levels], changed], dim=1)

    def level_latents(self, audio: Tensor) -> Tensor:
        """The last of the latents alone, [B, n_levels, N]."""
        stem, song = self._frames(audio)
        levels = self.analysis.level_latents(stem)
        return (
            levels if self.levels is None else levels + self.levels(self._both_levels(stem, song))
        )

    def _frames(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.spectrum(audio[:, :2]), self.spectrum(audio[:, 2:])

    def _both_levels(self, stem: Tensor, song: Tensor) -> Tensor:
        n_values = self.spectrum.n_values
        return torch.cat([to_log(each[:, n_values:]) for each in (song, stem)], dim=1)


class LevelEar(nn.Module):
    """Levels of song and stem [B, 2 n_levels, N] to what the stem's should be changed by.

    It looks a second to either side: whether a band is the stem's own shows in what it did before
    and does next.
    """

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2 * n_levels, _WIDTH, 1),
            *(Block(_WIDTH, _EXPANSION, _KERNEL_SIZE, dilation) for dilation in _DILATIONS),
        )
        self.output = _zeros(nn.Conv1d(_WIDTH, n_levels, 1))

    def forward(self, levels: Tensor) -> Tensor:
        changes: Tensor = self.output(self.layers(levels))
        return changes


def _zeros(layer: nn.Conv1d) -> nn.Conv1d:
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
