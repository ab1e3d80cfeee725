"""Outputs of a separation: each is a weighted sum of the mixture and its stems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import UsageError


@dataclass(frozen=True)
class Output:
    """One output: `mixture_weight` * mixture + sum of `stem_weights[stem]` * stem."""

    name: str
    mixture_weight: float
    stem_weights: dict[str, float]


@dataclass(frozen=True)
class OutputPlan:
    """The outputs to write, and the stems that the model must separate for them."""

    outputs: tuple[Output, ...]
    stems: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.outputs)

    def mix(
        self, mixture: NDArray[np.float32], stems: NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        """One signal [C, T] per output, from mixture [C, T] and stems [S, C, T] (S as `stems`)."""
        results = []
        for output in self.outputs:
            result = output.mixture_weight * mixture
            for stem, block in zip(self.stems, stems, strict=True):
                weight = output.stem_weights.get(stem, 0.0)
                if weight:
                    result = result + weight * block
            results.append(result.astype(np.float32, copy=False))
        return results


def plan_outputs(
    sources: Sequence[str],
    *,
    stems: Sequence[str] = (),
    two_stems: str | None = None,
    without: Sequence[str] = (),
    residual: bool = False,
    mix_consistent: bool = False,
) -> OutputPlan:
    """Choose the outputs of a separation.

    Args:
        sources: stems of the model.
        stems: stems to write; empty writes all, unless `two_stems` or `without` is given.
        two_stems: write this stem and `no_STEM`, the mixture minus the stem.
        without: write one output `no_A_B...`, the mixture minus these stems.
        residual: also write `residual`, the mixture minus all stems.
        mix_consistent: distribute the residual equally over the stems, so that they sum to the
            mixture (uniform weights of Wisdom et al., "Differentiable Consistency Constraints for
            Improved Deep Speech Enhancement", 2019).

    Raises:
        UsageError: an unknown stem, or options that contradict each other.
    """
    for option, names in (
        ("stems", stems),
        ("two_stems", [two_stems] if two_stems else []),
        ("without", without),
    ):
        for name in names:
            if name not in sources:
                raise UsageError(
                    f"`{option}` {name} is not a stem of this model; it has {', '.join(sources)}"
                )
    if two_stems and (stems or without):
        raise UsageError(
            "`two_stems` cannot be combined with `stems` or `without`; use one of them"
        )
    if residual and mix_consistent:
        raise UsageError(
            "`residual` is silent with `mix_consistent`, which distributes it; use one of them"
        )
    share = 1 / len(sources) if mix_consistent else 0.0

    def output(name: str, group: Sequence[str], mixture: float = 0, sign: float = 1) -> Output:
        # A consistent stem is stem + share * (mixture - sum of all stems); summed over the group.
        shared = share * len(group)
        weights = {source: sign * ((source in group) - shared) for source in sources}
        weights = {source: weight for source, weight in weights.items() if weight}
        return Output(name, mixture + sign * shared, weights)

    outputs = []
    if two_stems:
        outputs.append(output(two_stems, [two_stems]))
        outputs.append(output(f"no_{two_stems}", [two_stems], mixture=1, sign=-1))
    wanted = tuple(dict.fromkeys(stems)) or (() if two_stems or without else tuple(sources))
    outputs += [output(stem, [stem]) for stem in wanted]
    if without:
        group = tuple(dict.fromkeys(without))
        outputs.append(output("no_" + "_".join(group), group, mixture=1, sign=-1))
    if residual:
        outputs.append(Output("residual", 1.0, dict.fromkeys(sources, -1.0)))
    needed = {stem for one in outputs for stem in one.stem_weights}
    separated = tuple(source for source in sources if source in needed)
    # A mix-consistent model of one stem outputs the mixture itself; it runs nevertheless.
    return OutputPlan(tuple(outputs), separated or tuple(sources[:1]))
