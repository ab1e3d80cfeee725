"""Listening tests: what is exported, and the page in a browser."""

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import yaml
from numpy.typing import NDArray

from mssgen.audio.loudness import integrated_lufs
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.evaluation.listening.export import export_ab, export_mushra, low_passed
from mssgen.evaluation.listening.ratings import read_ratings
from mssgen.evaluation.listening.trials import ListeningOptions
from mssgen.events import Event, Warned

from support.browser import Page, browser, find_chromium

RATE = 16_000
STRANGE = "</script><b>&'\"$x$"
Audio = NDArray[np.float32]


def write_evaluation(
    folder: Path, tracks: dict[str, dict[str, dict[str, Path]]], systems: tuple[str, ...]
) -> Path:
    """evaluation.json of {track: {stem: {"reference" or system: path}}}."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "track": track,
            "mixture": None,
            "stems": {
                stem: {
                    "reference": str(files["reference"]),
                    "estimates": {name: str(files[name]) for name in systems if name in files},
                }
                for stem, files in stems.items()
            },
        }
        for track, stems in tracks.items()
    ]
    content = {
        "format_version": 1,
        "systems": [{"name": name, "folder": name} for name in systems],
        "references": "references",
        "mixture": None,
        "metrics": [],
        "options": {},
        "versions": {},
        "commit": None,
        "notes": [],
        "tracks": entries,
    }
    (folder / "evaluation.json").write_text(json.dumps(content))
    (folder / "scores.jsonl").write_text("")
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of two stems, and two systems: one quiet, one mono and noisy."""
    folder = tmp_path_factory.mktemp("evaluation")
    random = np.random.default_rng(0)
    tracks: dict[str, dict[str, dict[str, Path]]] = {}
    for track in ("song one", STRANGE.replace("/", "")):
        for stem in ("drums", "vocals"):
            reference = 0.1 * random.normal(size=(6 * RATE, 2))
            sounds = {
                "reference": reference,
                "quiet": 0.1 * reference + 0.002 * random.normal(size=reference.shape),
                STRANGE: reference.mean(axis=1) + 0.05 * random.normal(size=len(reference)),
            }
            files = {}
            for name, audio in sounds.items():
                files[name] = folder / f"{len(tracks)}-{stem}-{len(files)}.wav"
                sf.write(files[name], audio, RATE)
            tracks.setdefault(track, {})[stem] = files
    return write_evaluation(folder / "scores", tracks, ("quiet", STRANGE))


OPTIONS = ListeningOptions(seconds=4, n_trials=3, title=f"Stems {STRANGE}")


@pytest.fixture(scope="module")
def mushra(evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_mushra(evaluation, tmp_path_factory.mktemp("mushra"), OPTIONS)


def test_of(page: Path) -> dict[str, Any]:
    """The data that the page holds."""
    found = re.search(r'id="test">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert found
    return json.loads(found[1])


test_of.__test__ = False  # type: ignore[attr-defined]


def sound(page: Path, file: str) -> Audio:
    text = (page.parent / file).read_text()
    found = re.fullmatch(r"mssgenSound\((\".*\"), '([\w+/=]+)'\);\n", text)
    assert found
    assert json.loads(found[1]) == file
    return sf.read(io.BytesIO(base64.b64decode(found[2])), dtype="float32", always_2d=True)[0].T


def test_trials_have_all_conditions(mushra: Path) -> None:
    test = test_of(mushra)
    assert test["title"] == OPTIONS.title
    assert len(test["trials"]) == 3
    # Stems in turn, so that a short test has both.
    assert [trial["stem"] for trial in test["trials"]] == ["drums", "vocals", "drums"]
    for trial in test["trials"]:
        assert [(one["name"], one["role"]) for one in trial["conditions"]] == [
            ("quiet", "system"),
            (STRANGE, "system"),
            ("reference", "reference"),
            ("anchor35", "anchor"),
        ]
        # Names of files tell nothing about what is in them.
        files = [trial["reference"], *(one["file"] for one in trial["conditions"])]
        assert sorted(Path(file).name for file in files) == [f"{i}.js" for i in range(5)]


def test_sounds_are_equally_long_and_loud(mushra: Path) -> None:
    for trial in test_of(mushra)["trials"]:
        reference = sound(mushra, trial["reference"])
        assert reference.shape == (2, 4 * RATE)
        loudness = integrated_lufs(reference, RATE)
        for condition in trial["conditions"]:
            audio = sound(mushra, condition["file"])
            assert audio.shape == reference.shape
            assert np.abs(audio).max() < 1
            if condition["role"] == "reference":
                assert np.abs(audio - reference).max() < 4 / 2**15  # the dither is another one
            elif condition["role"] == "system":
                assert integrated_lufs(audio, RATE) == pytest.approx(loudness, abs=0.1)
            else:
                spectrum = np.square(np.abs(np.fft.rfft(audio))).sum(axis=0)
                above = spectrum[4 * 4050 :].sum() / spectrum.sum()
                assert 10 * np.log10(above) < -50


def test_anchor_keeps_the_time_and_what_is_below() -> None:
    impulse = np.zeros((1, 44_100), np.float32)
    impulse[0, 22_050] = 1
    heard = low_passed(impulse, 44_100, 3500)
    assert heard.argmax() == 22_050
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(heard[0])) + 1e-9)  # bins of 1 Hz
    assert np.abs(gain_db[:3500]).max() < 0.1
    assert gain_db[4000:].max() < -55
    # Nothing to take away.
    assert np.array_equal(low_passed(impulse, 8000, 3500), impulse)


def test_webmushra_configuration(mushra: Path) -> None:
    root = mushra.parent / "webmushra"
    (path,) = (root / "configs").glob("*.yaml")
    config = yaml.safe_load(path.read_text("utf-8"))
    assert {"testname", "testId", "bufferSize", "stopOnErrors", "showButtonPreviousPage",
            "remoteService", "pages"} == set(config)  # fmt: skip
    assert config["testname"] == OPTIONS.title
    kinds = [page["type"] if isinstance(page, dict) else "list" for page in config["pages"]]
    assert kinds == ["generic", "volume", "list", "finish"]
    assert (root / config["pages"][1]["stimulus"]).is_file()
    word, *pages = config["pages"][2]
    assert word == "random"
    assert len(pages) == 3
    for page in pages:
        assert page["type"] == "mushra"
        assert (page["createAnchor35"], page["createAnchor70"]) == (True, False)
        assert list(page["stimuli"]) == ["quiet", STRANGE]
        sounds = [sf.info(root / file) for file in (page["reference"], *page["stimuli"].values())]
        assert {(one.frames, one.channels, one.format) for one in sounds} == {(4 * RATE, 2, "WAV")}
    # What webMUSHRA shows as HTML is escaped.
    assert "<b>" not in config["pages"][0]["name"]
    ids = [trial["id"] for trial in test_of(mushra)["trials"]]
    assert [page["id"] for page in pages] == ids
    assert all(re.fullmatch(r"t\d\d\.\w+\.\w+", one) for one in ids)


def test_ab_takes_each_two_systems(evaluation: Path, tmp_path: Path) -> None:
    page = export_ab(evaluation, tmp_path / "ab", OPTIONS)
    test = test_of(page)
    assert test["kind"] == "ab"
    assert {tuple(one["name"] for one in trial["conditions"]) for trial in test["trials"]} == {
        ("quiet", STRANGE)
    }
    (path,) = (tmp_path / "ab").glob("webmushra/configs/*.yaml")
    assert yaml.safe_load(path.read_text("utf-8"))["pages"][2][1]["type"] == "paired_comparison"
    with pytest.raises(UsageError, match="two systems"):
        export_ab(evaluation, tmp_path / "one", ListeningOptions(systems=("quiet",)))


def test_options_choose(evaluation: Path, tmp_path: Path) -> None:
    options = ListeningOptions(
        seconds=2, stems=("vocals",), systems=("quiet",), anchors_hz=(3500, 7000)
    )
    trials = test_of(export_mushra(evaluation, tmp_path, options))["trials"]
    assert [trial["stem"] for trial in trials] == ["vocals", "vocals"]
    names = [one["name"] for one in trials[0]["conditions"]]
    assert names == ["quiet", "reference", "anchor35", "anchor70"]


def test_the_same_seed_gives_the_same_test(evaluation: Path, tmp_path: Path) -> None:
    options = ListeningOptions(seconds=2, n_trials=1)
    pages = [export_mushra(evaluation, tmp_path / name, options) for name in "ab"]
    files = [sorted(file for file in page.parent.rglob("*") if file.is_file()) for page in pages]
    assert [one.read_bytes() for one in files[0]] == [one.read_bytes() for one in files[1]]


def test_what_cannot_be_heard_is_left_out(tmp_path: Path) -> None:
    paths = {}
    for name, level in (("silent", 0.0), ("loud", 0.1)):
        paths[name] = tmp_path / f"{name}.wav"
        audio = level * np.random.default_rng(0).normal(size=3 * RATE)
        sf.write(paths[name], audio, RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    tracks = {
        "silent": {"vocals": {"reference": paths["silent"], "ours": paths["loud"]}},
        "broken": {"vocals": {"reference": tmp_path / "broken.wav", "ours": paths["loud"]}},
        "whole": {"vocals": {"reference": paths["loud"], "ours": paths["silent"]}},
    }
    folder = write_evaluation(tmp_path / "scores", tracks, ("ours",))
    events: list[Event] = []
    page = export_mushra(folder, tmp_path / "test", hook=events.append)
    assert [trial["track"] for trial in test_of(page)["trials"]] == ["whole"]
    assert {one.track for one in events if isinstance(one, Warned)} == {"silent", "broken"}

    del tracks["whole"]
    folder = write_evaluation(tmp_path / "none", tracks, ("ours",))
    with pytest.raises(AudioError, match="nothing to hear"):
        export_mushra(folder, tmp_path / "empty")
    assert not (tmp_path / "empty" / "index.html").exists()


def test_wrong_calls(evaluation: Path, mushra: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        export_mushra(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="stem bass is not in the evaluation"):
        export_mushra(evaluation, tmp_path / "out", ListeningOptions(stems=("bass",)))
    with pytest.raises(UsageError, match="system theirs"):
        export_mushra(evaluation, tmp_path / "out", ListeningOptions(systems=("theirs",)))
    with pytest.raises(MssgenError, match="`overwrite=True`"):
        export_mushra(evaluation, mushra.parent, OPTIONS)
    for wrong in ({"seconds": 1.0}, {"n_trials": 0}, {"anchors_hz": (5000,)}):
        with pytest.raises(UsageError):
            ListeningOptions(**wrong)  # type: ignore[arg-type]


# --- the page in a browser ---


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("needs Chromium, which is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def click(tab: Page, selector: str) -> None:
    """As a person does: browsers let nothing sound before."""
    box = tab.run(
        f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
        "node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    tab.click(*box)


def text(tab: Page, selector: str) -> str:
    return tab.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")


def start(tab: Page, page: Path, listener: str) -> None:
    tab.errors.clear()
    tab.requests.clear()
    tab.open(page)
    click(tab, "#listener")
    for letter in listener:
        tab.press(letter)
    click(tab, "#start")
    tab.wait("document.querySelector('#next') !== null")


def listen(tab: Page, keys: str) -> None:
    """Hear each sound for as long as it takes, by the keyboard."""
    for key in keys:
        left = int(text(tab, "#hint").split()[0])
        tab.press(key)
        if left == 1:
            tab.wait("!document.querySelector('#hint').textContent.includes('heard')")
        else:
            tab.wait(f"document.querySelector('#hint').textContent.startsWith('{left - 1} ')")


def ratings_of(tab: Page) -> dict[str, Any]:
    return json.loads(text(tab, "#ratings"))


def order_of(tab: Page) -> list[Any]:
    return tab.run("order.map(trial => [trial.id, trial.conditions.map(one => one.name)])")


def test_page_runs_a_whole_mushra_test(tab: Page, evaluation: Path, tmp_path: Path) -> None:
    options = ListeningOptions(seconds=2, n_trials=2, systems=(STRANGE,), title=OPTIONS.title)
    page = export_mushra(evaluation, tmp_path / "test", options)
    tab.resize(1000, 800)
    start(tab, page, "anna")
    assert tab.run("document.title") == options.title
    for trial in range(2):
        tab.wait(f"document.querySelector('h1').textContent === 'Trial {trial + 1} of 2'")
        tab.wait("document.querySelector('#next') !== null")
        assert tab.run("[...document.querySelectorAll('.conditions input')].every(x => x.disabled)")
        listen(tab, "0123")
        assert tab.run("document.querySelector('#next').disabled")
        for slider in range(3):
            tab.run(f"document.querySelector('#rating-{slider + 1}').focus()")
            for _ in range(slider + 1):
                tab.press("ArrowRight")
        tab.wait("!document.querySelector('#next').disabled")
        assert text(tab, ".conditions li:nth-child(3) output") == "3 bad"
        click(tab, "#next")
    tab.wait("document.querySelector('#save') !== null")
    saved = ratings_of(tab)
    assert (saved["listener"], saved["kind"]) == ("anna", "mushra")
    # Our own reader takes it, and finds each score at the condition that had this number.
    (tmp_path / "anna.json").write_text(json.dumps(saved))
    ratings = read_ratings([tmp_path / "anna.json"])
    numbers = {
        (trial, name): number
        for trial, names in order_of(tab)
        for number, name in enumerate(names, 1)
    }
    assert {(one.trial, one.condition): one.score for one in ratings} == numbers
    assert all(rated["played_s"] >= 1.9 for trial in saved["trials"] for rated in trial["ratings"])
    assert tab.errors == []
    outside = [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []

    # A file is offered, and a reload does not lose what was done.
    folder = tmp_path / "downloads"
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    click(tab, "#save")
    end = time.monotonic() + 10
    while not list(folder.glob("ratings-*-anna.json")) and time.monotonic() < end:
        time.sleep(0.05)
    (file,) = folder.glob("ratings-*-anna.json")
    assert json.loads(file.read_text())["trials"] == saved["trials"]
    tab.open(page)
    click(tab, "#listener")
    for letter in "anna":
        tab.press(letter)
    click(tab, "#start")
    tab.wait("document.querySelector('#save') !== null")
    assert ratings_of(tab)["trials"] == saved["trials"]


def test_order_is_each_listeners_own_and_can_be_repeated(tab: Page, mushra: Path) -> None:
    orders = {}
    for listener in ("ben", "cleo", "dora", "emil"):
        start(tab, mushra, listener)
        orders[listener] = json.dumps(order_of(tab))
    start(tab, mushra, "ben")
    assert json.dumps(order_of(tab)) == orders["ben"]
    assert len(set(orders.values())) > 1


def test_loops_and_switching_keep_the_position(tab: Page, mushra: Path) -> None:
    start(tab, mushra, "finn")
    box = tab.run("(() => { const b = document.querySelector('canvas').getBoundingClientRect();"
                  "return [b.x, b.y, b.width, b.height]; })()")  # fmt: skip
    tab.click(box[0] + box[2] / 2, box[1] + box[3] / 2)
    tab.press("[")
    assert text(tab, "label[for=loop-from]") == "Loop from 2.0 s"
    tab.press("l")
    assert text(tab, "label[for=loop-from]") == "Loop from 0.0 s"
    tab.press("1")
    tab.wait("document.querySelector('[data-sound=\"1\"]').ariaPressed === 'true'")
    tab.press("r")
    tab.wait("document.querySelector('[data-sound=\"0\"]').ariaPressed === 'true'")
    assert tab.run("document.querySelector('[data-sound=\"1\"]').ariaPressed") == "false"
    assert text(tab, "#pause") == "Pause"
    tab.press(" ")
    tab.wait("document.querySelector('#pause').textContent === 'Play'")
    assert tab.errors == []


def test_page_runs_an_ab_test(tab: Page, evaluation: Path, tmp_path: Path) -> None:
    page = export_ab(evaluation, tmp_path, ListeningOptions(seconds=2, n_trials=1))
    start(tab, page, "gina")
    listen(tab, "rab")
    click(tab, "input[value=B]")
    tab.wait("!document.querySelector('#next').disabled")
    click(tab, "#next")
    tab.wait("document.querySelector('#save') !== null")
    saved = ratings_of(tab)
    assert saved["trials"][0]["preferred"] == saved["trials"][0]["second"]
    assert [saved["trials"][0]["first"], saved["trials"][0]["second"]] == order_of(tab)[0][1]
    assert tab.errors == []


def test_page_fits_a_phone_and_tells_of_missing_sounds(
    tab: Page, evaluation: Path, tmp_path: Path
) -> None:
    page = export_mushra(evaluation, tmp_path, ListeningOptions(seconds=2, n_trials=1))
    tab.resize(360, 740, mobile=True)
    start(tab, page, "hana")
    assert tab.run("document.documentElement.scrollWidth") <= 360
    heights = tab.run("[...document.querySelectorAll('button')].map(x => x.offsetHeight)")
    assert min(heights) >= 44
    unnamed = (
        "[...document.querySelectorAll('input')].filter(x => !x.ariaLabel && !x.labels.length)"
    )
    assert tab.run(f"{unnamed}.length") == 0
    tab.resize(1000, 800)

    (tmp_path / "audio" / "t01" / "2.js").unlink()
    tab.open(page)
    click(tab, "#listener")
    tab.press("i")
    click(tab, "#start")
    tab.wait("main.textContent.includes('could not be loaded')")
    assert "audio/t01/2.js is missing" in text(tab, "main")
