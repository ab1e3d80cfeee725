"""How many threads are worth using, and how threads wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mssgen import devices
from mssgen.devices import FreeThreads, usable_threads

PROBE = "import {}, os; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    ("modules", "settings", "policy"),
    [
        ("mssgen", {}, "passive"),
        ("mssgen", {"OMP_WAIT_POLICY": "active"}, "active"),
        ("mssgen", {"GOMP_SPINCOUNT": "100"}, "None"),
        ("mssgen", {"KMP_BLOCKTIME": "1"}, "None"),
        ("sys; sys.modules['torch'] = sys; import mssgen", {}, "None"),
    ],
)
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(
    modules: str, settings: dict[str, str], policy: str
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    inherited = {key: value for key, value in os.environ.items() if key not in names}
    probe = [sys.executable, "-c", PROBE.format(modules)]
    done = subprocess.run(
        probe, capture_output=True, text=True, check=True, env=inherited | settings
    )
    assert done.stdout.strip() == policy


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float]]:
    """Readings (time, busy time, own time) to take in turn, on four CPUs with four threads."""
    readings: list[tuple[float, float, float]] = []
    monkeypatch.setattr(devices, "_cpu_times", lambda: readings.pop(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(devices, "usable_threads", lambda: 4)
    return readings


class TestFreeThreads:
    @pytest.mark.parametrize(
        ("busy_s", "own_s", "expected"),
        [(0.0, 0.0, 4), (20.0, 20.0, 4), (20.0, 0.0, 2), (38.0, 1.0, 1), (4.0, 0.0, 4)],
        ids=["idle", "only this process", "two others", "full", "a little"],
    )
    def test_other_programs_count_and_this_one_does_not(
        self,
        machine: list[tuple[float, float, float]],
        busy_s: float,
        own_s: float,
        expected: int,
    ) -> None:
        machine += [(100.0, 50.0, 5.0), (110.0, 50.0 + busy_s, 5.0 + own_s)]
        assert FreeThreads()() == expected

    def test_only_the_time_since_the_last_call_counts(
        self, machine: list[tuple[float, float, float]]
    ) -> None:
        machine += [(0.0, 0.0, 0.0), (10.0, 40.0, 0.0), (20.0, 40.0, 0.0), (20.01, 41.0, 0.0)]
        free = FreeThreads()
        assert [free(), free(), free()] == [1, 4, 4]  # the last interval is too short to tell

    def test_everything_is_free_where_nothing_is_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices, "_cpu_times", lambda: None)
        assert FreeThreads()() == usable_threads()

    def test_this_machine_has_a_thread(self) -> None:
        assert 1 <= FreeThreads()() <= torch.get_num_threads()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("250000 100000", 2), ("1000 100000", 1), ("", 8)],
)
def test_a_container_limits_the_threads(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(devices, "_CONTAINER_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert usable_threads() == expected
