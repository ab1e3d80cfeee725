"""The stem codec's encoder with the mixture as a second input.

Band energies of mixture, estimated stem and residual (mixture minus stem) reveal bleed. Bands as
loud in the stem as in the mixture belong to the stem; bands far quieter in the stem are more likely
bleed. A well separated stem is uncorrelated with the residual, so that their energies add up to the
mixture's; shared content, from bleed or from losses of the separator, changes that sum. What the
separator lost can be recovered from the mixture.
"""

import copy

import torch
from torch import Tensor, nn

from mssgen.codecs.networks.stem_codec import Analysis, Block
from mssgen.codecs.networks.stem_spectrum import Spectrum, to_log

_WIDTH, _EXPANSION, _KERNEL_SIZE = 128, 2, 7
_DILATIONS = (1, 2, 4, 8)  # receptive field: about half a second on either side


class MixtureAwareEncoder(nn.Module):
    """Estimated stem and mixture [B, 4, T], the stem first, to latents [B, D, N] of the clean stem.

    Initially it equals the encoder that it is built from, since the mixture enters through layers
    initialised to zero. A silent mixture means that there is none.

    Args:
        encoder: encoder of a `StemCodec`, which becomes part of this module.
    """

    def __init__(self, encoder: nn.Sequential) -> None:
        super().__init__()
        spectrum, analysis = encoder
        assert isinstance(spectrum, Spectrum)
        assert isinstance(analysis, Analysis)
        # Registered first: `codecs.streaming` takes modules in execution order.
        self.spectrum, self.analysis = spectrum, analysis
        first = analysis.main[0]
        assert isinstance(first, nn.Conv1d)
        # The stem's first layer, principal components of the spectrum, suits the mixture as well.
        self.song = copy.deepcopy(first)  # the name in state dicts
        self.song.bias = None  # a silent mixture adds nothing
        n_inputs = first.out_channels + 2 * spectrum.n_energies
        self.merge = _zeros(nn.Conv1d(n_inputs, first.out_channels, 1, bias=False))
        self.levels = BandCorrector(analysis.n_energies) if analysis.n_energies else None

    @property
    def branches(self) -> list[nn.Module]:
        """Parallel networks from the audio on; the longest has the receptive field of `forward`."""
        networks = (self.analysis.main, self.analysis.levels, self.levels)
        return [nn.Sequential(self.spectrum, each) for each in networks if each is not None]

    def freeze_bands(self) -> None:
        """Freeze the codec's own band-energy network, so that only `BandCorrector` is trained.

        Trained together, the former, whose only input is the stem, overfits to rendered stems.
        """
        if self.analysis.levels is not None:
            self.analysis.levels.requires_grad_(False)

    def forward(self, audio: Tensor) -> Tensor:
        stem, mixture = audio[:, :2], audio[:, 2:]
        frames, mixture_frames = self.spectrum(stem), self.spectrum(mixture)
        n_values, n_energies = self.spectrum.n_values, self.spectrum.n_energies
        energies = to_log(torch.cat([mixture_frames[:, n_values:], frames[:, n_values:]], dim=1))
        context = self.merge(torch.cat([self.song(mixture_frames), energies], dim=1))
        latents: Tensor = self.analysis(frames, context)
        if self.levels is None:
            return latents
        residual = to_log(self.spectrum.band_energies_of(mixture - stem))
        change = self.levels(torch.cat([energies, residual], dim=1)).to(latents)
        return torch.cat([latents[:, :-n_energies], latents[:, -n_energies:] + change], dim=1)

    def band_latents(self, audio: Tensor) -> Tensor:
        """Only the latents of band energies [B, n_energies, N]; much faster than all latents."""
        stem, mixture = audio[:, :2], audio[:, 2:]
        signals = (mixture, stem, mixture - stem)
        energies = [self.spectrum.band_energies_of(signal) for signal in signals]
        latents = self.analysis.band_latents(energies[1])
        if self.levels is None:
            return latents
        return latents + self.levels(to_log(torch.cat(energies, dim=1)))


class BandCorrector(nn.Module):
    """Corrections [B, n_energies, N] of the stem's band energies, logarithmic.

    The input [B, 3 n_energies, N] holds logarithmic band energies of mixture, stem and residual.
    """

    def __init__(self, n_energies: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3 * n_energies, _WIDTH, 1),
            *(Block(_WIDTH, _EXPANSION, _KERNEL_SIZE, dilation) for dilation in _DILATIONS),
        )
        self.output = _zeros(nn.Conv1d(_WIDTH, n_energies, 1))

    def forward(self, energies: Tensor) -> Tensor:
        changes: Tensor = self.output(self.layers(energies))
        return changes


def _zeros(layer: nn.Conv1d) -> nn.Conv1d:
    """`layer` with all parameters set to zero."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
