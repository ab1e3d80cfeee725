"""`mssgen report`: a page of an evaluation, read as files and used in a real browser."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.cli.options import Messages
from mssgen.cli.report import report as report_command
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.evaluation.report import audio_files, pictures
from mssgen.evaluation.report.page import PAGE, ReportOptions, summarise, write_report
from mssgen.evaluation.report.results import read_results
from mssgen.events import Event, Failed, Written

from support.browser import Page, browser, find_chromium

RATE = 8000
EVIL = "<script>document.title='ran'</script>&\"'/x"
EVIL_SYSTEM = "<img src=x onerror=\"document.title='ran'\">"
WAV = ReportOptions("wav", seconds=2.0)
METRICS = [
    {
        "name": "usdr",
        "title": "uSDR (dB)",
        "unit": "dB",
        "better": "higher",
        "aggregate": "mean",
        "definition": "Global SDR </script> of the song.",
        "group": "waveform",
    },
    {
        "name": "centroid",
        "title": "Centroid (oct)",
        "unit": "oct",
        "better": "zero",
        "aggregate": "median",
        "definition": "Difference of centroids.",
        "group": "features",
    },
]

QUIET = Messages(quiet=True)


def tone_bursts(seed: int, seconds: float = 4.0, rate: int = RATE) -> NDArray[np.float32]:
    """Noise that swells and fades, loudest in its second half: [2, T]."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    shape = 0.05 + 0.2 * (np.sin(2 * np.pi * 1.5 * time) > 0) * (time / seconds)
    return (shape * random.standard_normal((2, len(time))) * 0.3).astype(np.float32)


def write_wav(path: Path, audio: NDArray[np.float32], rate: int = RATE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, audio.T, rate, subtype="FLOAT")
    return str(path)


def write_evaluation(
    folder: Path,
    tracks: tuple[str, ...] = ("Song", EVIL, "Third"),
    systems: tuple[str, ...] = ("quiet", EVIL_SYSTEM),
    stems: tuple[str, ...] = ("vocals", "drums"),
    seconds: float = 4.0,
) -> Path:
    """What `mssgen evaluate` leaves, with real sound files; returns its folder.

    The first system gives a quarter of the reference, the second adds some of the mixture.
    """
    entries, rows = [], []
    for index, track in enumerate(tracks):
        references = {stem: tone_bursts(10 * index + n, seconds) for n, stem in enumerate(stems)}
        mixture = sum(references.values(), np.zeros_like(references[stems[0]]))
        files = {}
        for n, (stem, reference) in enumerate(references.items()):
            place = folder / "sounds" / str(index)
            estimates = (0.25 * reference, reference + 0.3 * mixture)
            files[stem] = {
                "reference": write_wav(place / f"{stem}.wav", reference),
                "estimates": {
                    system: write_wav(place / f"{stem}-{number}.wav", audio)
                    for number, (system, audio) in enumerate(zip(systems, estimates, strict=True))
                },
            }
            for number, system in enumerate(systems):
                common = {"system": system, "track": track, "stem": stem, "n": 1}
                usdr = 10.0 * number + n + index
                rows.append({**common, "metric": "usdr", "value": usdr, "reason": ""})
                empty = {"value": None, "reason": "silent reference"} if index == 2 else None
                rows.append(
                    {**common, "metric": "centroid", "value": -0.1 * index, "reason": ""}
                    | (empty or {})
                )
        mixture_path = write_wav(folder / "sounds" / str(index) / "mixture.wav", mixture)
        entries.append({"track": track, "stems": files, "mixture": mixture_path})
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = {
        "format_version": 1,
        "systems": [{"name": name, "folder": f"estimates/{n}"} for n, name in enumerate(systems)],
        "references": "references",
        "mixture": None,
        "metrics": METRICS,
        "options": {},
        "versions": {"numpy": np.__version__},
        "commit": None,
        "notes": [{"system": systems[0], "track": tracks[0], "note": "1 sample added"}],
        "tracks": entries,
    }
    (folder / "evaluation.json").write_text(json.dumps(head))
    return folder


def edit(folder: Path, change: Any) -> None:
    path = folder / "evaluation.json"
    head = json.loads(path.read_text())
    change(head)
    path.write_text(json.dumps(head))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def report(evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "report"
    write_report(read_results(evaluation), folder, WAV)
    return folder


def payload(folder: Path, number: int = 1) -> dict[str, Any]:
    text = (folder / "data" / f"{number:04}.js").read_text()
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


class Structure(HTMLParser):
    """Every tag with its attributes, and the text by tag."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags:
            key = self.tags[-1][1].get("id") or self.tags[-1][0]
            self.text[key] = self.text.get(key, "") + data


def head_of(folder: Path) -> dict[str, Any]:
    return json.loads(Structure(folder / PAGE).text["report"])


# ---- files ----


def test_the_page_needs_nothing_from_outside(report: Path) -> None:
    text = (report / PAGE).read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"'`]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "file://,",  # a comment
    }
    assert not re.search(r"\bfetch\(|XMLHttpRequest|AudioContext|innerHTML|@import", text)
    loading = {tag for tag, attributes in Structure(report / PAGE).tags if "src" in attributes}
    assert loading == set()


def test_the_folder_holds_exactly_what_the_page_names(report: Path) -> None:
    named = {PAGE}
    for number in (1, 2, 3):
        named.add(f"data/{number:04}.js")
        for stem in payload(report, number)["stems"]:
            for source in stem["sources"]:
                named |= {source[key] for key in ("sound", "spectrogram", "difference")} - {None}
    found = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    assert named == found
    assert all(re.fullmatch(r"[a-z0-9/.-]+", name) for name in named)


def test_names_are_never_markup(report: Path) -> None:
    page = Structure(report / PAGE)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 7
    assert "img" not in tags
    head = head_of(report)
    assert head["tracks"] == ["Song", EVIL, "Third"]
    assert head["systems"] == ["quiet", EVIL_SYSTEM]
    assert head["metrics"] == METRICS
    assert page.text["title"].strip() == f"Listening report: quiet vs {EVIL_SYSTEM}"


def test_the_page_is_labelled(report: Path) -> None:
    tags = Structure(report / PAGE).tags
    assert ("html", {"lang": "en"}) in tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_all_sources_of_a_stem_are_equally_loud(report: Path) -> None:
    for stem in payload(report)["stems"]:
        loudness = []
        for source in stem["sources"]:
            audio, rate = sf.read(report / source["sound"])
            assert rate == RATE
            assert np.abs(audio).max() < 0.9
            loudness.append(pyloudnorm.Meter(rate).integrated_loudness(audio))
        assert max(loudness) - min(loudness) < 0.05
        # pyloudnorm's filters differ a little from the recommendation's at 8 kHz.
        assert loudness == pytest.approx([stem["lufs"]] * 4, abs=0.4)


def test_what_differs_in_level_only_sounds_the_same(report: Path) -> None:
    stem = payload(report)["stems"][0]
    sounds = {source["key"]: sf.read(report / source["sound"])[0] for source in stem["sources"]}
    gains = {source["key"]: source["gain"] for source in stem["sources"]}
    assert list(sounds) == ["mixture", "reference", "system1", "system2"]
    np.testing.assert_allclose(sounds["system1"], sounds["reference"], atol=1e-4)
    assert np.abs(sounds["system2"] - sounds["reference"]).max() > 0.01
    assert gains["system1"] - gains["reference"] == pytest.approx(12.04, abs=0.11)


def test_stems_come_in_the_usual_order(report: Path) -> None:
    assert [stem["name"] for stem in payload(report)["stems"]] == ["drums", "vocals"]


def test_the_numbers_of_all_tracks_are_on_the_page(report: Path) -> None:
    head = head_of(report)
    assert head["scores"]["usdr"]["vocals"] == {"quiet": [0, 1, 2], EVIL_SYSTEM: [10, 11, 12]}
    assert head["scores"]["centroid"]["drums"]["quiet"] == [0, -0.1, None]
    assert set(head["reasons"].values()) == {"silent reference"}
    assert payload(report)["notes"][0]["note"] == "1 sample added"


def test_max_tracks_leaves_the_numbers(evaluation: Path, tmp_path: Path) -> None:
    done = write_report(
        read_results(evaluation), tmp_path / "r", ReportOptions("wav", 1.0, max_tracks=1)
    )
    assert done.n_done == 1
    assert [path.name for path in (tmp_path / "r" / "data").iterdir()] == ["0001.js"]
    head = head_of(tmp_path / "r")
    assert (head["heard"], len(head["tracks"])) == (1, 3)


@pytest.mark.parametrize("container", ["ogg", "mp3", "flac", "opus"])
def test_formats(evaluation: Path, tmp_path: Path, container: str) -> None:
    options = ReportOptions(container, 1.0, max_tracks=1)
    write_report(read_results(evaluation), tmp_path / "r", options)
    lengths = {
        round(sf.info(path).duration, 2) for path in (tmp_path / "r").rglob(f"*.{container}")
    }
    assert len(lengths) == 1
    assert lengths.pop() == pytest.approx(1.0, abs=0.2)


def test_summaries_follow_the_metric_and_count_what_is_missing(evaluation: Path) -> None:
    summary = summarise(read_results(evaluation))
    usdr, centroid = summary["usdr"]["vocals"]["quiet"], summary["centroid"]["drums"]["quiet"]
    assert (usdr["value"], usdr["known"], usdr["missing"]) == (1.0, 3, 0)
    assert 0 <= usdr["low"] < 1 < usdr["high"] <= 2
    assert (centroid["value"], centroid["known"], centroid["missing"]) == (-0.05, 2, 1)


def test_scores_of_the_whole_set_are_taken_as_they_are(tmp_path: Path) -> None:
    write_evaluation(tmp_path, tracks=("A", "B"))
    row = {"system": "quiet", "track": "", "stem": "drums", "metric": "usdr"}
    row |= {"value": 77.0, "n": 1, "reason": ""}
    with open(tmp_path / "scores.jsonl", "a") as scores:
        scores.write(json.dumps(row) + "\n")
    cell = summarise(read_results(tmp_path))["usdr"]["drums"]["quiet"]
    assert (cell["value"], cell["low"], cell["known"]) == (77.0, None, 2)


# ---- sounds ----


def test_the_excerpt_is_the_loudest_part_of_the_reference(tmp_path: Path) -> None:
    audio = 0.01 * np.ones((1, 10 * RATE), np.float32)
    audio[:, 6 * RATE : 8 * RATE] = 0.5
    path = Path(write_wav(tmp_path / "a.wav", audio))
    excerpt = audio_files.read_excerpt({"reference": path}, "reference", 2.0)
    assert excerpt.start_s == pytest.approx(6.0, abs=0.11)
    assert excerpt.duration_s == 2.0
    assert excerpt.song_s == 10.0
    whole = audio_files.read_excerpt({"reference": path}, "reference", 0)
    assert (whole.start_s, whole.duration_s) == (0.0, 10.0)


def test_other_rates_lengths_and_channels_are_brought_together(tmp_path: Path) -> None:
    time = np.arange(4 * 16000) / 16000
    sine = (0.3 * np.sin(2 * np.pi * 440 * time) * (time > 1))[None].astype(np.float32)
    reference = write_wav(tmp_path / "r.wav", np.repeat(sine[:, ::2], 2, axis=0))
    fast = write_wav(tmp_path / "f.wav", sine, 16000)
    short = write_wav(tmp_path / "s.wav", sine[:, : 3 * RATE : 2])
    wide = write_wav(tmp_path / "w.wav", np.repeat(sine[:, ::2], 4, axis=0))
    paths = {
        "reference": Path(reference),
        "fast": Path(fast),
        "short": Path(short),
        "wide": Path(wide),
    }
    excerpt = audio_files.read_excerpt(paths, "reference", 2.5)
    sources = excerpt.sources
    assert {name: audio.shape for name, audio in sources.items()} == {
        "reference": (2, 20000),
        "fast": (2, 20000),
        "short": (2, 20000),
        "wide": (2, 20000),
    }
    np.testing.assert_allclose(
        sources["fast"][0, 500:-500], sources["reference"][0, 500:-500], atol=0.01
    )
    assert not sources["short"][:, 15000:].any()


def test_one_channel_beside_two_is_as_loud_as_it_is_heard(tmp_path: Path) -> None:
    mono = tone_bursts(3)[:1]
    paths = {
        "reference": Path(write_wav(tmp_path / "stereo.wav", np.concatenate([mono, mono]))),
        "mono": Path(write_wav(tmp_path / "mono.wav", mono)),
    }
    gains_db = audio_files.match(
        audio_files.read_excerpt(paths, "reference", 0), "reference"
    ).gains_db
    assert gains_db["mono"] == pytest.approx(gains_db["reference"], abs=1e-6)


def test_silence_is_not_turned_up(tmp_path: Path) -> None:
    loud = tone_bursts(1)
    paths = {
        "reference": Path(write_wav(tmp_path / "r.wav", 0 * loud)),
        "noise": Path(write_wav(tmp_path / "n.wav", 1e-5 * loud)),
        "system": Path(write_wav(tmp_path / "s.wav", loud)),
    }
    matched = audio_files.match(audio_files.read_excerpt(paths, "reference", 0), "reference")
    assert matched.is_silent == {"reference": True, "noise": True, "system": False}
    assert matched.gains_db["noise"] <= 0
    nothing = audio_files.AlignedExcerpt(0, 1, RATE, {"reference": np.zeros((1, RATE), np.float32)})
    assert audio_files.match(nothing, "reference").gains_db == {"reference": 0.0}


def test_peaks_stay_below_full_scale() -> None:
    clicks = np.zeros((1, 4 * RATE), np.float32)
    clicks[:, :: RATE // 4] = 1.0
    steady = 0.1 * np.ones_like(clicks) * np.sin(np.arange(4 * RATE))
    excerpt = audio_files.AlignedExcerpt(0, 4, RATE, {"reference": clicks, "system": steady})
    matched = audio_files.match(excerpt, "reference")
    assert matched.gains_db["reference"] == pytest.approx(-1.0)
    assert matched.gains_db["system"] < 0


def test_a_silent_song_still_makes_a_page(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "e", tracks=("Song",), stems=("drums",))
    for path in (tmp_path / "e" / "sounds").rglob("*.wav"):
        write_wav(path, np.zeros((2, 100), np.float32))
    write_report(read_results(tmp_path / "e"), tmp_path / "r", WAV)
    sources = payload(tmp_path / "r")["stems"][0]["sources"]
    assert all(source["silent"] for source in sources)


# ---- pictures ----


def test_a_tone_stands_where_its_frequency_is() -> None:
    time = np.arange(2 * 44100) / 44100
    tone = np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32)
    image = pictures.mel_spectrogram_db(tone, 44100)
    middle = image[:, pictures.N_COLUMNS // 2]
    place = dict(pictures.ticks(44100))["1k"]
    assert middle.argmax() / (pictures.N_ROWS - 1) == pytest.approx(place, abs=0.01)
    assert -8 < middle.max() < 1
    assert middle.min() < -80


def pixels(path: Path) -> NDArray[np.float64]:
    from PIL import Image

    return np.asarray(Image.open(path), float)


def test_differences_have_a_sign(tmp_path: Path) -> None:
    reference = pictures.mel_spectrogram_db(tone_bursts(3), RATE)
    top = pictures.top_db([reference])
    for name, shift in (("same", 0.0), ("added", 20.0), ("missing", -20.0)):
        path = tmp_path / f"{name}.webp"
        pictures.draw_difference(reference + shift, reference, top + 20, path)
    same, added, missing = (
        pixels(tmp_path / f"{name}.webp").mean(axis=(0, 1)) for name in ("same", "added", "missing")
    )
    assert same.max() < 30
    assert added[0] > added[2] + 50  # orange
    assert missing[2] > missing[0] + 50  # blue


def test_silence_does_not_differ_from_silence(tmp_path: Path) -> None:
    quiet = np.full((pictures.N_ROWS, pictures.N_COLUMNS), -110, np.float32)
    pictures.draw_difference(quiet + 20, quiet, 0.0, tmp_path / "d.webp")
    assert pixels(tmp_path / "d.webp").max() < 30


def test_high_frequencies_are_on_top(tmp_path: Path) -> None:
    image = np.full((pictures.N_ROWS, pictures.N_COLUMNS), -100, np.float32)
    image[-20:] = 0
    pictures.draw_spectrogram(image, 0.0, tmp_path / "s.webp")
    drawn = pixels(tmp_path / "s.webp")
    assert drawn[:15].mean() > 200
    assert drawn[40:].mean() < 20


@settings(max_examples=15, deadline=None)
@given(
    n_samples=st.integers(1, 3000),
    n_channels=st.integers(1, 2),
    rate=st.sampled_from([8000, 22050, 48000]),
)
def test_pictures_of_any_length(n_samples: int, n_channels: int, rate: int) -> None:
    audio = np.full((n_channels, n_samples), 0.5, np.float32)
    image = pictures.mel_spectrogram_db(audio, rate)
    assert image.shape == (pictures.N_ROWS, pictures.N_COLUMNS)
    assert np.isfinite(image).all()
    outline = pictures.peaks(audio)
    assert set(outline) == {50}
    assert len(outline) % 2 == 0


# ---- failures ----


def test_a_track_that_cannot_be_read_is_told_and_the_others_are_there(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "e")
    lost = tmp_path / "e" / "sounds" / "1" / "drums.wav"
    lost.unlink()
    events: list[Event] = []
    done = write_report(read_results(tmp_path / "e"), tmp_path / "r", WAV, hook=events.append)
    assert (done.n_done, done.n_failed) == (2, 1)
    failures = [event for event in events if isinstance(event, Failed)]
    assert [event.track for event in failures] == [EVIL]
    assert str(lost) in failures[0].message
    assert Written("", "", tmp_path / "r" / PAGE) in events
    assert payload(tmp_path / "r", 2) == {"error": failures[0].message, "stems": []}
    assert len(payload(tmp_path / "r", 3)["stems"]) == 2


def test_the_command(tmp_path: Path, evaluation: Path) -> None:
    call = {"container": "wav", "seconds": 1.0, "max_tracks": 1, "messages": QUIET}
    out = str(tmp_path / "r")
    assert report_command(str(evaluation), output=out, **call) == 0
    with pytest.raises(MssgenError, match="`overwrite=True`"):
        report_command(str(evaluation), output=out, **call)
    assert report_command(str(evaluation), output=out, overwrite=True, **call) == 0
    with pytest.raises(UsageError, match="--output"):
        report_command(str(evaluation), output="-", messages=QUIET)
    write_evaluation(tmp_path / "e", tracks=("Song",))
    (tmp_path / "e" / "sounds" / "0" / "drums.wav").write_bytes(b"")
    assert report_command(str(tmp_path / "e"), output=str(tmp_path / "s"), messages=QUIET) == 1


@pytest.mark.parametrize("kind", ["mushra", "ab"])
def test_listening_tests(evaluation: Path, tmp_path: Path, kind: str) -> None:
    options = {"output": str(tmp_path / "t"), "messages": QUIET, "trials": 1}
    assert report_command(str(evaluation), listening_test=kind, seconds=2.0, **options) == 0
    assert (tmp_path / "t" / "index.html").is_file()
    with pytest.raises(UsageError, match="--trials"):
        report_command(str(evaluation), **options)


def test_only_older_reports_are_replaced(report: Path, evaluation: Path, tmp_path: Path) -> None:
    results = read_results(evaluation)
    with pytest.raises(MssgenError, match="`overwrite=True`"):
        write_report(results, report, WAV)
    other = tmp_path / "music"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(MssgenError, match="not an older report"):
        write_report(results, other, WAV, overwrite=True)
    assert (other / "index.html").read_text() == "mine"
    target = tmp_path / "file" / "report"
    (tmp_path / "file").write_text("")
    with pytest.raises(MssgenError, match="cannot be written"):
        write_report(results, target, WAV)


def test_nothing_stays_behind_a_failure(evaluation: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(read_results(evaluation), tmp_path / "r", WAV, hook=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head.update(format_version=9), "format 1"),
        (lambda head: head.update(tracks=[]), "names no tracks"),
        (lambda head: head.update(systems=[]), "names no systems"),
        (lambda head: head.pop("tracks"), "is not what"),
        (lambda head: head["tracks"][0].pop("stems"), "is not what"),
        (lambda head: head["metrics"][0].update(aggregate="max"), "aggregate 'max'"),
    ],
)
def test_damaged_evaluations(tmp_path: Path, change: Any, message: str) -> None:
    write_evaluation(tmp_path, tracks=("A",))
    edit(tmp_path, change)
    with pytest.raises(MssgenError, match=message):
        read_results(tmp_path)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mssgen evaluate"):
        read_results(tmp_path)
    write_evaluation(tmp_path, tracks=("A",))
    scores = tmp_path / "scores.jsonl"
    scores.write_text(scores.read_text() + '{"metric": 1}\n')
    with pytest.raises(MssgenError, match=r"scores\.jsonl is damaged"):
        read_results(tmp_path)
    scores.unlink()
    with pytest.raises(MssgenError, match=r"scores\.jsonl"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"container": "aiff"}, "`container`"),
        ({"seconds": 0.1}, "`seconds`"),
        ({"seconds": float("nan")}, "`seconds`"),
        ({"max_tracks": 0}, "`max_tracks`"),
        ({"n_workers": 0}, "`n_workers`"),
    ],
)
def test_options(wrong: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        ReportOptions(**wrong)


def test_an_excerpt_of_no_sound_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("words")
    with pytest.raises(AudioError, match=r"a\.wav"):
        audio_files.read_excerpt({"reference": tmp_path / "a.wav"}, "reference", 0)


# ---- in the browser ----

needs_browser = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium, which is not installed"
)
READY = "document.querySelectorAll('.lane').length > 0"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        page.resize(1200, 900)
        yield page


@pytest.fixture
def page(tab: Page, report: Path) -> Iterator[Page]:
    """The report on its second track, whose name is markup; no error may come up."""
    tab.errors.clear()
    tab.requests.clear()
    tab.open(report / PAGE, "#track=2")
    tab.wait(READY)
    yield tab
    assert tab.errors == []
    assert {address.split(":")[0] for address in tab.requests} <= {"file", "data", "about"}
    assert "ran" not in tab.run("document.title").split()


@needs_browser
def test_the_page_shows_names_as_text_and_loads_no_sound(page: Page) -> None:
    assert page.run("document.getElementById('track-title').textContent") == EVIL
    assert EVIL_SYSTEM in page.run("document.getElementById('lanes').textContent")
    assert page.run("player.audios.map(a => [a.preload, a.readyState])") == [["none", 0]] * 4
    page.wait("[...document.images].every(image => image.complete && image.naturalWidth === 900)")


@needs_browser
def test_the_time_axis_has_whole_seconds_once_each(page: Page) -> None:
    marks = "[...document.querySelectorAll('#axis span')].map(m => [m.textContent, m.style.left])"
    assert page.run(marks) == [["0:02", "0%"], ["0:03", "50%"], ["0:04", "100%"]]


@needs_browser
def test_it_plays_and_switches_in_place(page: Page) -> None:
    page.press(" ")
    page.wait("player.position > 0.4")
    before = page.run("player.position")
    page.press("3")
    after, active, muted = page.run(
        "[player.position, player.active, player.audios.map(a => a.muted || a.volume < 0.001)]"
    )
    assert active == 2
    assert muted == [True, True, False, True]
    assert before <= after < before + 0.5
    assert page.run("document.getElementById('now-source').textContent") == "quiet"
    assert page.run("document.querySelectorAll('.lane')[2].hasAttribute('data-active')")
    page.press(" ")
    paused = page.run("player.position")
    assert page.run("player.audios.every(a => a.paused)")
    page.press("1")
    assert page.run("player.position") == pytest.approx(paused, abs=0.01)


@needs_browser
def test_all_sources_run_beside_each_other(page: Page) -> None:
    page.press(" ")
    spread = (
        "(() => { const t = player.audios.map(a => a.currentTime);"
        "return Math.max(...t) - Math.min(...t) })()"
    )
    page.wait(f"player.playing && player.position > 0.9 && {spread} < 0.05")
    page.press(" ")


@needs_browser
def test_it_loops_and_stops(page: Page) -> None:
    page.run("player.seek(1.8)")
    page.press(" ")
    page.wait("player.playing && player.position > 0.1 && player.position < 1")
    page.press("l")
    assert page.run("document.getElementById('loop').getAttribute('aria-pressed')") == "false"
    page.run("player.seek(1.8)")
    page.wait("!player.playing")


@needs_browser
def test_keys(page: Page) -> None:
    page.press("ArrowRight")
    assert page.run("player.position") == 2
    page.press("ArrowLeft")
    assert page.run("player.position") == 0
    page.press("s")
    assert page.run("document.querySelector('#stems [aria-checked=true]').textContent") == "vocals"
    page.press("v")
    assert page.run("document.querySelectorAll('img')[3].src").endswith("system2-difference.webp")
    page.press("n")
    page.wait(f"{READY} && document.getElementById('track-title').textContent === 'Third'")
    assert "track=3&stem=vocals&view=difference" in page.run("location.hash")
    page.press("n")  # there is no fourth
    page.press("p")
    page.press("p")
    page.wait("document.getElementById('track-title').textContent === 'Song'")
    page.wait("document.getElementById('notes').textContent.includes('1 sample added')")


@needs_browser
def test_a_click_on_a_picture_goes_there(page: Page) -> None:
    x, y, width = page.run(
        "(() => { const l = document.querySelectorAll('.lane .pictures')[3];"
        "l.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const b = l.getBoundingClientRect(); return [b.x, b.y + b.height / 2, b.width] })()"
    )
    page.click(x + width / 2, y)
    assert page.run("player.active") == 3
    assert page.run("player.position") == pytest.approx(1.0, abs=0.02)
    page.press(" ")  # the focus is not in the way
    page.wait("player.position > 1.2")


@needs_browser
def test_playing_goes_on_through_stems_and_keeps_the_source(page: Page) -> None:
    page.press("4")
    page.press(" ")
    page.wait("player.position > 0.1")
    page.press("s")
    page.wait("player.playing && player.active === 3 && player.position > 0.1")
    assert "vocals" in page.run("player.audios[3].src")


@needs_browser
def test_tables_sort(page: Page) -> None:
    heading = "document.querySelectorAll('#tracks thead button')"
    names = "[...document.querySelectorAll('#tracks tbody th')].map(cell => cell.textContent)"
    page.run(f"{heading}[1].click()")
    assert page.run(names) == ["Third", EVIL, "Song"]
    assert page.run("document.querySelector('#tracks th[aria-sort]').ariaSort") == "descending"
    page.run(f"{heading}[1].click()")
    assert page.run(names) == ["Song", EVIL, "Third"]
    page.run("(m => { m.value = 'centroid'; m.dispatchEvent(new Event('change')) })(metric)")
    cells = "[...document.querySelectorAll('#tracks tbody tr')].map(r => r.cells[1].textContent)"
    assert page.run(cells) == ["−0.10", "0.00", "–"]  # without a value last
    assert page.run("document.querySelector('#summary tbody td small').textContent").endswith(
        "2 of 3"
    )


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(360, False), (400, True), (1200, True)])
def test_no_width_needs_sideways_scrolling(tab: Page, report: Path, width: int, dark: bool) -> None:
    tab.resize(width, 800, mobile=width < 600, dark=dark)
    tab.open(report / PAGE)
    tab.wait(READY)
    assert tab.run("document.documentElement.scrollWidth") <= width
    tab.resize(1200, 900)


@needs_browser
def test_every_control_has_a_name(page: Page) -> None:
    controls = {"button", "combobox", "slider", "radio", "image", "radiogroup", "link"}
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node) for node in nodes if not node.get("ignored")]
    found = [(role, node) for role, node in roles if role in controls]
    assert {role for role, _ in found} >= {"button", "slider", "radio", "image", "radiogroup"}
    assert [role for role, node in found if not node.get("name", {}).get("value")] == []


@needs_browser
def test_fifty_tracks_are_paged(tab: Page, tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "e", tuple(f"T{n}" for n in range(50)), seconds=0.5)
    options = ReportOptions("wav", 1.0, max_tracks=13)
    write_report(read_results(folder), tmp_path / "r", options)
    assert (tmp_path / "r" / PAGE).stat().st_size < 100_000
    tab.open(tmp_path / "r" / PAGE)
    tab.wait(READY)
    first = "document.querySelector('#tracks tbody th').textContent"
    rows = "document.querySelectorAll('#tracks tbody tr').length"
    assert (tab.run(rows), tab.run(first)) == (10, "T0")
    tab.run("document.querySelector('#pager button:last-child').click()")
    assert (tab.run(rows), tab.run(first)) == (10, "T10")
    assert tab.run("document.querySelectorAll('#tracks tbody a').length") == 3
    tab.run("document.querySelector('#tracks tbody a').click()")
    tab.wait(f"{READY} && document.getElementById('track-title').textContent === 'T10'")
    assert tab.run("document.images.length") == 4


@needs_browser
def test_a_sound_that_is_missing_is_said(tab: Page, evaluation: Path, tmp_path: Path) -> None:
    write_report(read_results(evaluation), tmp_path / "r", WAV)
    for path in (tmp_path / "r" / "audio").rglob("*reference.wav"):
        path.unlink()
    tab.open(tmp_path / "r" / PAGE)
    tab.wait(READY)
    tab.press(" ")
    tab.wait("!document.getElementById('message').hidden")
    assert "reference.wav does not play" in tab.run(
        "document.getElementById('message').textContent"
    )
