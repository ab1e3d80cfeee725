"""CPU time of SCNet small per second of audio, against the package msst and our HTDemucs.

    python tests/benchmarks/separator_speed.py [--seconds 11] [--runs 3]

Random weights of full size, one segment after another in one process, in turn: what else the
machine does hits all alike. Prints CPU seconds per second of audio and the ratios pair by pair.
Needs msst 0.1.0 (see tests/separators/test_msst.py).
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from msst.models.scnet.scnet import SCNet
from torch import Tensor

from mssgen.checkpoints.registry import REGISTRY
from mssgen.devices import DTYPES, choose_precision
from mssgen.pipeline import load_separator
from mssgen.separators.demucs import DemucsSeparator
from mssgen.separators.loading import TRUNKS
from mssgen.separators.state_dicts import StateDictNetwork

RATE = 44_100


def cpu_s_per_s(network: Callable[[Tensor], Tensor], mixture: Tensor) -> float:
    """CPU seconds per second of audio."""
    started = time.process_time()
    with torch.inference_mode():
        network(mixture)
    return (time.process_time() - started) * RATE / mixture.shape[-1]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=11)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    theirs = SCNet().eval()
    auto = choose_precision("auto", torch.device("cpu"))
    mixture = 0.1 * torch.randn(1, 2, int(arguments.seconds * RATE))
    options = {**REGISTRY["scnet_small"].options, "segment_samples": mixture.shape[-1]}
    htdemucs = load_separator("htdemucs")
    assert isinstance(htdemucs, DemucsSeparator)
    demucs = htdemucs.members[0].network
    networks: dict[str, Callable[[Tensor], Tensor]] = {"msst fp32": theirs}
    for name in dict.fromkeys(("fp32", auto)):
        networks[f"mssgen {name}"] = StateDictNetwork(
            TRUNKS["scnet"], options, theirs.state_dict(), dtype=DTYPES[name]
        )
    networks[f"htdemucs {htdemucs.precision}"] = demucs
    short = 0.1 * torch.randn(1, 2, demucs.segment_samples)
    costs: dict[str, list[float]] = {name: [] for name in networks}
    for run in range(arguments.runs + 1):
        for name, network in networks.items():
            cost = cpu_s_per_s(network, short if network is demucs else mixture)
            if run:  # the first one warms up
                costs[name].append(cost)
    for name, values in costs.items():
        ratios = [a / b for a, b in zip(costs["msst fp32"], values, strict=True)]
        print(
            f"{name}: {statistics.median(values):.3f} s of CPU per second, "
            f"{statistics.median(ratios):.2f} times as fast as msst "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
