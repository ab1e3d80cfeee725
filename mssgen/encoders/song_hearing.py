"""The stem codec's encoder with an ear for the song that a stem was separated from.

How loud the song is where the stem sounds tells what leaked into the stem: what is as loud in both
is the stem's own, and what is far softer in the stem than in the song is more likely a rest of
something else. How loud the song is without the stem tells more: a stem that is separated well has
no phase in common with the rest, so that their energies add up to the song's, and one that keeps a
share of the rest, or leaves a share of its own there, has. What the separator lost is still in the
song, too.
"""

import copy

import torch
from torch import Tensor, nn

from mssgen.codecs.networks.stem_codec import Analysis, Block
from mssgen.codecs.networks.stem_spectrum import Spectrum, to_log

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

    def keep_levels(self) -> None:
        """Let what the codec says of the stem's levels be: the ear alone learns to change it.

        A network that hears the stem alone, taught beside it, learns what rendered stems have.
        """
        if self.analysis.levels is not None:
            self.analysis.levels.requires_grad_(False)

    def forward(self, audio: Tensor) -> Tensor:
        stem, song = audio[:, :2], audio[:, 2:]
        frames, of_song = self.spectrum(stem), self.spectrum(song)
        n_values, n_levels = self.spectrum.n_values, self.spectrum.n_levels
        levels = to_log(torch.cat([of_song[:, n_values:], frames[:, n_values:]], dim=1))
        heard = self.merge(torch.cat([self.song(of_song), levels], dim=1))
        latents: Tensor = self.analysis(frames, heard)
        if self.levels is None:
            return latents
        of_rest = to_log(self.spectrum.levels_alone(song - stem))
        change = self.levels(torch.cat([levels, of_rest], dim=1)).to(latents)
        return torch.cat([latents[:, :-n_levels], latents[:, -n_levels:] + change], dim=1)

    def level_latents(self, audio: Tensor) -> Tensor:
        """The last of the latents alone, [B, n_levels, N], in a small part of the time of all."""
        stem, song = audio[:, :2], audio[:, 2:]
        levels = [self.spectrum.levels_alone(each) for each in (song, stem, song - stem)]
        latents = self.analysis.level_latents(levels[1])
        if self.levels is None:
            return latents
        return latents + self.levels(to_log(torch.cat(levels, dim=1)))


class LevelEar(nn.Module):
    """Levels of song, stem and rest [B, 3 n_levels, N] to what the stem's should be changed by.

    It looks a second to either side: whether a band is the stem's own shows in what it did before
    and does next.
    """

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3 * n_levels, _WIDTH, 1),
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
