"""Enhancement does not depend on the input level."""

import numpy as np
import pytest
import torch

from mssgen.enhancers.blend import Blend
from mssgen.enhancers.chain import StemEnhancer
from mssgen.enhancers.loading import load_enhancer

from support.toys import write_tiny_encoder


@pytest.mark.parametrize("factor", [16.0, 0.001])
def test_the_output_scales_with_the_input(factor: float, tmp_path: object) -> None:
    encoder = write_tiny_encoder(tmp_path / "encoder")  # type: ignore[operator]
    enhancer = StemEnhancer(
        load_enhancer(str(encoder), hears="separated", device="cpu"), Blend("fill")
    )
    noise = np.random.default_rng(0).normal(0, 0.05, (1, 2, 44_100)).astype(np.float32)
    natural, extreme = (torch.from_numpy(noise * np.float32(k)) for k in (1.0, factor))
    one, other = (enhancer(x) for x in (natural, extreme))
    assert 20 * torch.log10(other.std() / factor / one.std()).abs() < 0.5
