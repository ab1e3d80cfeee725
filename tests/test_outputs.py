"""Which outputs are written, and that they add up."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.errors import UsageError
from mssgen.outputs import OutputPlan, plan_outputs

SOURCES = ("drums", "bass", "other", "vocals")
Audio = NDArray[np.float32]


def random_audio(*shape: int) -> Audio:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


MIXTURE, STEMS = random_audio(2, 100), random_audio(4, 2, 100) / 2


def mixed(plan: OutputPlan) -> dict[str, Audio]:
    """The outputs of the plan for a mixture that its stems do not explain."""
    stems = np.stack([STEMS[SOURCES.index(stem)] for stem in plan.stems])
    results = plan.mix(MIXTURE, stems)
    assert all(result.dtype == np.float32 for result in results)
    return dict(zip(plan.names, results, strict=True))


def close(one: Audio, other: Audio) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_all_stems_in_the_order_of_the_model() -> None:
    outputs = mixed(plan_outputs(SOURCES))
    assert tuple(outputs) == SOURCES
    for stem, expected in zip(SOURCES, STEMS, strict=True):
        np.testing.assert_array_equal(outputs[stem], expected)


def test_only_wanted_stems_are_separated() -> None:
    plan = plan_outputs(SOURCES, stems=["vocals", "bass", "vocals"])
    assert plan.names == ("vocals", "bass")
    assert set(plan.stems) == {"vocals", "bass"}
    np.testing.assert_array_equal(mixed(plan)["vocals"], STEMS[3])


def test_two_stems_sum_to_the_mixture_sample_by_sample() -> None:
    plan = plan_outputs(SOURCES, two_stems="vocals")
    assert plan.stems == ("vocals",)
    outputs = mixed(plan)
    assert tuple(outputs) == ("vocals", "no_vocals")
    np.testing.assert_array_equal(outputs["no_vocals"], MIXTURE - STEMS[3])
    close(outputs["vocals"] + outputs["no_vocals"], MIXTURE)


def test_without_takes_stems_from_the_mixture() -> None:
    plan = plan_outputs(SOURCES, without=["drums", "bass"])
    assert plan.names == ("no_drums_bass",)
    assert set(plan.stems) == {"drums", "bass"}
    close(mixed(plan)["no_drums_bass"], MIXTURE - STEMS[0] - STEMS[1])


def test_stems_and_without_go_together() -> None:
    plan = plan_outputs(SOURCES, stems=["bass"], without=["bass"])
    outputs = mixed(plan)
    assert tuple(outputs) == ("bass", "no_bass")
    close(outputs["bass"] + outputs["no_bass"], MIXTURE)


def test_the_residual_is_what_the_stems_do_not_explain() -> None:
    outputs = mixed(plan_outputs(SOURCES, residual=True))
    assert tuple(outputs) == (*SOURCES, "residual")
    close(outputs["residual"], MIXTURE - STEMS.sum(0))


def test_the_residual_of_one_stem_still_counts_all() -> None:
    plan = plan_outputs(SOURCES, stems=["bass"], residual=True)
    assert plan.names == ("bass", "residual")
    close(mixed(plan)["residual"], MIXTURE - STEMS.sum(0))


def test_mix_consistent_stems_null_against_the_mixture() -> None:
    outputs = mixed(plan_outputs(SOURCES, mix_consistent=True))
    close(np.sum(list(outputs.values()), axis=0), MIXTURE)
    share = (MIXTURE - STEMS.sum(0)) / 4
    for stem, plain in zip(SOURCES, STEMS, strict=True):
        close(outputs[stem], plain + share)


wanted = st.lists(st.sampled_from(SOURCES), min_size=1, max_size=4)


@given(wanted, st.booleans())
def test_a_group_and_its_rest_give_the_mixture(group: list[str], mix_consistent: bool) -> None:
    plan = plan_outputs(SOURCES, stems=group, without=group, mix_consistent=mix_consistent)
    outputs = mixed(plan)
    rest = outputs.pop("no_" + "_".join(dict.fromkeys(group)))
    close(rest + np.sum(list(outputs.values()), axis=0), MIXTURE)


@pytest.mark.parametrize("mix_consistent", [True, False])
@pytest.mark.parametrize("sources", [("vocals",), ("vocals", "rest"), tuple("abcdef")])
def test_models_of_any_number_of_stems(sources: tuple[str, ...], mix_consistent: bool) -> None:
    plan = plan_outputs(sources, two_stems=sources[0], mix_consistent=mix_consistent)
    stems = random_audio(len(plan.stems), 2, 50)
    one, rest = plan.mix(MIXTURE[:, :50], stems)
    close(one + rest, MIXTURE[:, :50])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stems": ["bas"]}, r"`stems` bas is not .*drums, bass, other, vocals"),
        ({"two_stems": "guitar"}, "`two_stems` guitar"),
        ({"without": ["bass", "x"]}, "`without` x"),
        ({"two_stems": "bass", "stems": ["bass"]}, "`two_stems` cannot be combined with"),
        ({"two_stems": "bass", "without": ["bass"]}, "`two_stems` cannot be combined with"),
        ({"residual": True, "mix_consistent": True}, "`residual` is silent"),
    ],
)
def test_wrong_calls(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_outputs(SOURCES, **options)
