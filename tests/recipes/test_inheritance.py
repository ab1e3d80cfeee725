"""Recipes: inheritance, overrides, and what is refused."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mssgen.checkpoints.registry import lookup
from mssgen.errors import UsageError
from mssgen.recipes.schema import Count, Share
from mssgen.recipes.sections import check_fields, from_section
from mssgen.training.recipes import KINDS, Recipe, TrainOptions, load_recipe, recipe_names


def write(folder: Path, name: str, text: str, why: str = "to test") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(f'why = "{why}"\n{text}')
    return path


def test_a_recipe_is_merged_over_what_it_inherits(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base",
        'kind = "encoder"\n[model]\na = 1\nb = [1, 2]\n[loss.mel]\nweight = 1.0\nbins = 80\n'
        "[train]\nsteps = 5\nseed = 3\n",
        why="the base",
    )
    write(tmp_path, "middle", 'inherits = "base"\n[loss.mel]\nweight = 2.0\n')
    path = write(tmp_path, "leaf", 'inherits = "middle"\n[model]\nb = [3]\n[train]\nsteps = 7\n')
    recipe = load_recipe(path, ["loss.mel.bins=40", "train.seed = 9", "data.stem=bass"])
    assert (recipe.name, recipe.why, recipe.kind) == ("leaf", "to test", "encoder")
    assert recipe.model == {"a": 1, "b": [3]}
    assert recipe.loss == {"mel": {"weight": 2.0, "bins": 40}}
    assert recipe.data == {"stem": "bass"}
    assert (recipe.train.steps, recipe.train.seed) == (7, 9)
    assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_a_file_may_bear_the_name_of_the_shipped_recipe_it_inherits(tmp_path: Path) -> None:
    path = write(tmp_path, "base", 'inherits = "base"\n[train]\nsteps = 12\n')
    shipped = load_recipe("base", kind="codec")
    recipe = load_recipe(path, kind="codec")
    assert recipe.data == shipped.data
    assert recipe.train.steps == 12


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_recipe_loads(kind: Any) -> None:
    for name in recipe_names(kind):
        recipe = load_recipe(f"{kind}/{name}")
        assert (recipe.kind, recipe.name) == (kind, name)
        assert len(recipe.why) > 10


@pytest.mark.parametrize("name", ["c2f_vampnet", "coarse_vampnet"])
def test_recipes_of_vampnet_are_for_its_own_codec(name: str) -> None:
    assert load_recipe(name, kind="refiner").model["codec"] == "vampnet_codec"
    assert lookup("vampnet_codec", "codec").name == "vampnet_codec"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "encoder"\n[trian]\nsteps = 1\n', "unknown section 'trian'; did you mean train?"),
        ('kind = "encoder"\n[train]\nstep = 1\n', r"\[train\] has no 'step'; did you mean steps"),
        ('kind = "encoder"\n[train]\nsteps = "many"\n', "steps = 'many' must be a whole number"),
        ('kind = "encoder"\n[train]\nsteps = 1.5\n', "must be a whole number"),
        ('kind = "encoder"\n[train]\nsteps = true\n', "must be a whole number"),
        ('kind = "encoder"\n[train]\nsteps = 0\n', "train.steps = 0 is out of range; use 1"),
        (
            'kind = "encoder"\n[train]\nschedule = "linear"\n',
            "is unknown; use one of constant, cosine",
        ),
        ('kind = "song"\n', 'kind = "song" is unknown'),
        ('kind = "codec"\n', "is for `mssgen train codec`"),
        ("train = 3\n", r"train must be a \[section\]"),
        ("[train\n", "not valid TOML"),
        ('inherits = "absent"\n', "inherits 'absent', but"),
        ('inherits = "recipe"\n', "inherits 'recipe', but"),
    ],
)
def test_a_wrong_recipe_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, "recipe", text)
    with pytest.raises(UsageError, match=said) as caught:
        load_recipe(path, kind="encoder")
    assert "\n" not in str(caught.value)


def test_a_recipe_must_say_why_itself(tmp_path: Path) -> None:
    write(tmp_path, "base", 'kind = "encoder"\n')
    (tmp_path / "leaf.toml").write_text('inherits = "base"\n')
    with pytest.raises(UsageError, match="does not say why it exists"):
        load_recipe(tmp_path / "leaf.toml")


def test_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "one", 'inherits = "two"\n')
    path = write(tmp_path, "two", 'inherits = "one"\n')
    with pytest.raises(UsageError, match="two -> one -> two"):
        load_recipe(path, kind="encoder")


def test_what_a_recipe_trains_must_be_known(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe", "")
    with pytest.raises(UsageError, match="does not say what it trains"):
        load_recipe(path)
    assert load_recipe(path, kind="codec").kind == "codec"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="neither a file nor the name of one"):
        load_recipe("encodec_24kHz", kind="codec")
    with pytest.raises(UsageError, match=r"absent\.toml does not exist"):
        load_recipe("absent.toml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps", "use section.key=value"),
        ("steps=3", "use section.key=value"),
        ("trian.steps=3", "no section 'trian'; did you mean train"),
        ("train.steps=three fine steps", "not a TOML value"),
        ("train.steps=three", "must be a whole number"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, said: str) -> None:
    path = write(tmp_path, "recipe", "")
    with pytest.raises(UsageError, match=said):
        load_recipe(path, [override], kind="encoder")


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    form: Literal["a", "b", 3] = "a"


@dataclass(frozen=True)
class Options:
    needed: str
    inner: Inner = field(default_factory=Inner)
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    limit: int | None = None
    either: int | tuple[int, ...] = 1
    anything: Any = None
    maybe: Inner | None = None


def test_a_section_becomes_a_dataclass() -> None:
    section = {
        "needed": "x",
        "inner": {"rate": 1, "form": 3},
        "pair": [3, 4],
        "many": [1, 2, 3],
        "names": ["a"],
        "table": {"mel": 2},
        "limit": 4,
        "either": [1, 2],
        "anything": [{}],
    }
    options = from_section(Options, section, "model")
    assert options == Options(
        "x", Inner(1.0, 3), (3, 4.0), (1, 2, 3), ["a"], {"mel": 2.0}, 4, (1, 2), [{}]
    )
    assert type(options.inner.rate) is float
    assert from_section(Options, {"needed": "x", "limit": None}, "model") == Options("x")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, r"\[model\] lacks 'needed'"),
        ({"needed": 3}, r"\[model\]: needed = 3 must be a string"),
        ({"needed": "x", "inner": 3}, "inner = 3 must be a table"),
        ({"needed": "x", "inner": {"rat": 3}}, r"\[model.inner\] has no 'rat'; did you mean rate"),
        (
            {"needed": "x", "inner": {"form": "c"}},
            "inner.form = 'c' is unknown; use one of a, b, 3",
        ),
        ({"needed": "x", "inner": {"rate": "1"}}, "inner.rate = '1' must be a number"),
        ({"needed": "x", "pair": [1]}, r"pair = \[1\] must be a longer list"),
        ({"needed": "x", "many": [1, "2"]}, r"many\[1\] = '2' must be a whole number"),
        ({"needed": "x", "many": 1}, "must be a list"),
        ({"needed": "x", "table": {"a": "b"}}, "table.a = 'b' must be a number"),
        ({"needed": "x", "limit": 1.5}, "limit = 1.5 must be a whole number"),
        ({"needed": "x", "either": "no"}, "either = 'no' must be"),
        ({"needed": "x", "zebra": 1}, "it knows needed, inner"),
        ({"needed": "x", "maybe": {"rat": 3}}, r"\[model.maybe\] has no 'rat'; did you mean rate"),
        ({"needed": "x", "either": [1, "2"]}, r"either\[1\] = '2' must be a whole number"),
    ],
)
def test_a_wrong_section_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_section(Options, section, "model")


@dataclass(frozen=True)
class Bounded:
    n: Count = 0
    share: Share = 0.5
    scale: Annotated[float, Field(gt=0, lt=2)] = 1.0
    form: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        check_fields(self, "loss")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n": -1}, "loss.n = -1 is out of range; use 0 or more"),
        ({"share": 2.0}, "loss.share = 2.0 is out of range; use 0 to 1"),
        ({"share": float("nan")}, "share = nan must be a finite number"),
        ({"scale": 0.0}, "loss.scale = 0.0 is out of range; use more than 0, less than 2"),
        ({"n": 10**400}, ""),
    ],
)
def test_bounds_hold_with_and_without_a_recipe(values: dict[str, Any], said: str) -> None:
    for build in (lambda: Bounded(**values), lambda: from_section(Bounded, values, "loss")):
        if said:
            with pytest.raises(UsageError, match=said):
                build()
        else:
            build()


def test_choices_hold_without_a_recipe() -> None:
    with pytest.raises(UsageError, match=r"loss\.form = 'c' is unknown; use one of a, b"):
        Bounded(form="c")  # type: ignore[arg-type]


def test_the_defaults_are_in_range() -> None:
    assert from_section(TrainOptions, {}, "train") == TrainOptions()
