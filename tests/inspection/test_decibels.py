"""Decibels by hand."""

import numpy as np
import pytest

from mssgen.inspection.decibels import energy, power_db, power_db_or_none, ratio_db, rms_db


def test_powers() -> None:
    assert power_db(0.01) == pytest.approx(-20)
    assert power_db(0.0) == -200
    assert power_db(1e-9, floor_db=-80) == -80
    assert power_db_or_none(10.0) == pytest.approx(10)
    assert power_db_or_none(0.0) is None


def test_ratios_are_limited() -> None:
    assert ratio_db(4.0, 0.04) == pytest.approx(20)
    assert ratio_db(1.0, 0.0) == 120
    assert ratio_db(0.0, 1.0) == -120
    assert ratio_db(0.0, 0.0) == 0


def test_levels_of_audio() -> None:
    audio = np.full((2, 100_000), 0.1, np.float32)
    assert energy(audio) == pytest.approx(2000, rel=1e-6)
    assert rms_db(audio) == pytest.approx(-20, abs=1e-6)
    assert rms_db(np.zeros((1, 0), np.float32)) == -200
