"""Segments: what is drawn, that it is drawn again, and that input and target belong together."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mssgen.audio.levels import level, level_db
from mssgen.errors import UsageError
from mssgen.library.stems import open_library
from mssgen.training.data.augment import AUGMENTED, Augmentation, Change, add_noise, draw_change
from mssgen.training.data.datasets import DataOptions, SegmentDataset, collate, open_datasets

from support.models import EXCERPT

RATE = 8000
STEMS = ("drums", "bass", "other", "vocals")
EVERYTHING = Augmentation(-6, 6, p_swap=0.5, p_polarity=0.5, p_remix=0.5)
ALIKE = Augmentation(-6, 6, p_swap=0.5, p_polarity=0.5)
Audio = NDArray[np.float32]


def write(path: Path, audio: Audio, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, audio.T, rate, "FLOAT")


def noise(*seed: int, seconds: float = 4.0, level: float = 0.1) -> Audio:
    numbers = np.random.default_rng(seed)
    return level * numbers.standard_normal((2, round(seconds * RATE)), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracks of 4 s: 0 to 3 of noise, 4 without bass, 5 of which half the bass is silent."""
    root = tmp_path_factory.mktemp("library")
    for number in range(6):
        for place, stem in enumerate(STEMS):
            audio = noise(number, place)
            if (number, stem) == (4, "bass"):
                continue
            if (number, stem) == (5, "bass"):
                audio[:, : 2 * RATE] = 0
            write(root / f"track {number}" / f"{stem}.wav", audio)
    return root


@pytest.fixture(scope="module")
def pairs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a separator would have made: the bass, half as loud."""
    root = tmp_path_factory.mktemp("pairs")
    library = open_library(folder)
    for track in library.tracks:
        bass = track.read("bass", 0, 4 * RATE, sample_rate=RATE, n_channels=2)
        write(root / track.key / "bass.wav", bass / 2)
    tracks = {track.key: track.fingerprint for track in library.tracks}
    manifest = {"format_version": 1, "model": "half", "sha256": [], "tracks": tracks}
    (root / "pairs.json").write_text(json.dumps(manifest))
    return root


def dataset(folder: Path, *, is_valid: bool = False, **how: Any) -> SegmentDataset:
    """Half-second segments, unless told otherwise."""
    places = ("sample_rate", "n_channels", "seed", "pairs")
    given = {"sample_rate": RATE, "n_channels": 2, "seed": 3, "pairs": None}
    given |= {name: how.pop(name) for name in places if name in how}
    options = DataOptions(**{"segment_s": 0.5, "n_valid_tracks": 2, "input": "mixture", **how})
    return SegmentDataset(open_library(folder), options, is_valid=is_valid, **given)


def numbers_of(data: SegmentDataset, n_items: int = 20) -> set[str]:
    return {data[index].key.split("/")[0] for index in range(n_items)}


@pytest.mark.parametrize("kind", ["separated", "separated+mixture", "mixture", "noisy", "clean"])
@pytest.mark.parametrize("is_valid", [False, True])
def test_item_i_depends_on_the_seed_and_i_only(
    folder: Path, pairs: Path, kind: str, is_valid: bool
) -> None:
    augment = EVERYTHING if kind == "mixture" else ALIKE
    how: dict[str, Any] = {"input": kind, "pairs": pairs, "augment": augment, "is_valid": is_valid}
    forwards = [dataset(folder, **how)[index] for index in range(6)]
    again = dataset(folder, **how)
    for index in reversed(range(6)):
        item = again[index]
        assert item.key == forwards[index].key
        assert torch.equal(item.input, forwards[index].input)
        assert torch.equal(item.target, forwards[index].target)
    assert len({item.key for item in forwards}) == 6
    other_seed = dataset(folder, **how, seed=4)
    assert (other_seed[0].key == forwards[0].key) == is_valid


def test_workers_and_resuming_change_nothing(folder: Path) -> None:
    data = dataset(folder, augment=EVERYTHING)

    def keys(first: int, n_workers: int) -> Iterator[str]:
        loader = DataLoader(
            data, 2, sampler=range(first, 12), num_workers=n_workers, collate_fn=collate
        )
        return (key for batch in loader for key in batch.keys)

    whole = list(keys(0, 0))
    assert list(keys(0, 2)) == whole
    assert list(keys(8, 0)) == whole[8:]


def test_batches(folder: Path) -> None:
    data = dataset(folder, n_channels=1)
    batch = collate([data[0], data[1]])
    assert batch.input.shape == batch.target.shape == (2, 1, RATE // 2)
    assert batch.input.dtype == batch.target.dtype == torch.float32
    assert batch.keys == (data[0].key, data[1].key)
    clean = dataset(folder, input="clean")
    batch = collate([clean[0], clean[1]])
    assert batch.input is batch.target


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sample_rate=st.sampled_from([8000, 16000, 24000, 44100, 48000]),
    segment_s=st.floats(0.01, 6.0),
    n_channels=st.integers(1, 2),
)
def test_every_segment_has_the_length_asked_for(
    folder: Path, sample_rate: int, segment_s: float, n_channels: int
) -> None:
    data = dataset(folder, sample_rate=sample_rate, segment_s=segment_s, n_channels=n_channels)
    item = data[0]
    expected = (n_channels, max(1, round(segment_s * sample_rate)))
    assert item.input.shape == item.target.shape == expected


def test_length_is_that_of_the_music(folder: Path) -> None:
    data = dataset(folder, n_valid_tracks=1)
    assert len(data.tracks) == 4
    assert len(data) == 4 * 4 * 2  # tracks, seconds, segments a second


def test_silent_segments_are_drawn_again(folder: Path) -> None:
    tracks = ("track 5",)
    half_silent = [
        item
        for data in [dataset(folder, n_valid_tracks=0, n_tries=1, min_level_db=-40)]
        for item in map(data.__getitem__, range(60))
        if item.key.startswith(tracks)
    ]
    assert any(item.target.abs().max() == 0 for item in half_silent)
    data = dataset(folder, n_valid_tracks=0, n_tries=30, min_level_db=-40)
    levels = [level_db(data[index].target.numpy()) for index in range(60)]
    assert min(levels) >= -40


def test_the_loudest_is_taken_where_all_are_too_soft(folder: Path) -> None:
    data = dataset(folder, n_valid_tracks=0, n_tries=30, min_level_db=60)
    assert all(data[index].target.abs().max() > 0 for index in range(20))


def test_tracks_without_the_stem_are_left_out(folder: Path) -> None:
    assert numbers_of(dataset(folder, n_valid_tracks=0), 60) == {
        f"track {n}" for n in (0, 1, 2, 3, 5)
    }
    assert "track 4" in numbers_of(dataset(folder, n_valid_tracks=0, stem="drums"), 60)


def test_training_and_validation_share_no_track(folder: Path) -> None:
    train, valid = dataset(folder), dataset(folder, is_valid=True)
    assert len(train.tracks) == 3
    assert len(valid.tracks) == 2
    assert not {track.key for track in train.tracks} & {track.key for track in valid.tracks}
    assert len(numbers_of(valid, 2)) == 2  # in turn


def test_at_most_half_of_the_tracks_validate(folder: Path) -> None:
    assert len(dataset(folder, n_valid_tracks=5, is_valid=True).tracks) == 2


def test_a_folder_valid_is_used_and_test_is_not(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / split / "A" / "bass.wav", noise(1))
    assert [track.key for track in dataset(tmp_path).tracks] == ["train/A"]
    assert [track.key for track in dataset(tmp_path, is_valid=True).tracks] == ["valid/A"]


def test_one_track_validates_too_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "A" / "bass.wav", noise(1))
    assert [track.key for track in dataset(tmp_path, is_valid=True).tracks] == ["A"]
    assert "used for training and validation" in caplog.text


def test_overfitting_on_a_song_and_on_a_segment(folder: Path) -> None:
    assert len(numbers_of(dataset(folder, max_tracks=1))) == 1
    how: dict[str, Any] = {"fixed_segment": True, "augment": EVERYTHING}
    data, valid = dataset(folder, **how), dataset(folder, **how, is_valid=True)
    assert {data[index].key for index in range(5)} == {valid[0].key}
    assert AUGMENTED not in data[0].key
    assert len(data) == len(valid) == 1
    assert torch.equal(data[0].input, valid[7].input)


def test_noise_is_new_also_on_one_segment(folder: Path) -> None:
    data = dataset(folder, fixed_segment=True, input="noisy", noise_db=-10)
    assert torch.equal(data[0].target, data[1].target)
    assert not torch.equal(data[0].input, data[1].input)
    assert data[0].key != data[1].key
    assert AUGMENTED in data[0].key
    ratio_db = level_db((data[0].input - data[0].target).numpy()) - level_db(data[0].target.numpy())
    assert ratio_db == pytest.approx(-10, abs=0.2)


def test_segments_recur_where_they_start_in_steps(folder: Path) -> None:
    data = dataset(folder, start_step_s=0.5)
    keys = [data[index].key for index in range(100)]
    assert len(set(keys)) <= 3 * 8
    assert len({dataset(folder)[index].key for index in range(100)}) > 90


def parts(folder: Path, key: str, stem: str) -> Audio:
    """What lies on disk where the key says."""
    name, _, rest = key.partition("/")
    start = int(rest.split("@")[1].split("+")[0])
    return sf.read(folder / name / f"{stem}.wav", RATE // 2, start, dtype="float32")[0].T


def test_a_mixture_minus_the_other_stems_is_the_target(folder: Path) -> None:
    data = dataset(folder)
    for index in range(5):
        item = data[index]
        others = sum(parts(folder, item.key, stem) for stem in STEMS if stem != "bass")
        np.testing.assert_array_equal(item.target.numpy(), parts(folder, item.key, "bass"))
        np.testing.assert_allclose(item.input.numpy() - others, item.target.numpy(), atol=1e-6)


def explained(audio: Audio, by: list[Audio]) -> tuple[Audio, float]:
    """Least-squares weights of stems' channels in each channel of the audio, and the rest's RMS."""
    basis = np.concatenate(by).T
    weights, *_ = np.linalg.lstsq(basis, audio.T, rcond=None)
    return weights.T, level(np.asarray(audio.T - basis @ weights, np.float32))


def test_any_name_is_trainable_and_the_mixture_holds_every_stem(tmp_path: Path) -> None:
    names = [
        "bass",
        "violin",
        "drums",
        "guitar",
        "synth",
        "choir",
        "horns",
        "organ",
        "harp",
        "flute",
        "fx",
    ]
    for track in "AB":
        for place, name in enumerate(names):
            write(tmp_path / track / f"{name}.wav", noise(ord(track), place))
    for stem in (*names, "other"):
        data = dataset(tmp_path, stem=stem)
        segment = data[0]
        (track,) = (each for each in data.tracks if segment.key.startswith(each.key))
        start = int(segment.key.split("@")[1].split("+")[0])
        where = {"sample_rate": RATE, "n_channels": 2}
        target = track.read(stem, start, data.n_samples, **where)
        whole = track.read("mixture", start, data.n_samples, **where)
        np.testing.assert_allclose(segment.target, target, atol=1e-6)
        np.testing.assert_allclose(segment.input, whole, atol=1e-6)
        # Altered stems are summed anew: the target is in there once.
        louder = dataset(tmp_path, stem=stem, augment=Augmentation(-60, -60))[0]
        np.testing.assert_allclose(louder.input, whole / 1000, atol=1e-6)


def test_other_of_pairs_is_what_their_model_does_not_name(tmp_path: Path) -> None:
    for name in ("bass", "other", "guitar", "violin"):
        write(tmp_path / "tracks/A" / f"{name}.wav", noise(len(name)))
        write(tmp_path / "pairs/A" / f"{name}.wav", noise(9))
    (track,) = open_library(tmp_path / "tracks").tracks
    manifest = {"format_version": 1, "model": "five", "sha256": []}
    manifest |= {"tracks": {"A": track.fingerprint}, "stems": ["bass", "other", "guitar"]}
    (tmp_path / "pairs/pairs.json").write_text(json.dumps(manifest))
    how = {"stem": "other", "input": "separated", "fixed_segment": True}
    segment = dataset(tmp_path / "tracks", pairs=tmp_path / "pairs", **how)[0]
    start = int(segment.key.split("@")[1].split("+")[0])
    expected = sum(noise(len(name))[:, start : start + RATE // 2] for name in ("other", "violin"))
    np.testing.assert_allclose(segment.target, expected, atol=1e-6)


def test_augmented_mixtures_hold_the_altered_target_and_altered_others(folder: Path) -> None:
    data = dataset(folder, augment=ALIKE)
    gains = []
    for index in range(12):
        item = data[index]
        assert AUGMENTED in item.key
        stems = ["bass", "drums", "other", "vocals"]
        by = [parts(folder, item.key, stem) for stem in stems]
        weights, rest = explained(item.input.numpy(), by)
        assert rest < 1e-6
        # Of each stem one gain, on the diagonal or (swapped) off it.
        for place in range(4):
            block = weights[:, 2 * place : 2 * place + 2]
            straight, crossed = np.diag(block), np.diag(block[::-1])
            used, unused = sorted((straight, crossed), key=lambda part: -np.abs(part).max())
            np.testing.assert_allclose(unused, 0, atol=1e-4)
            assert used[0] == pytest.approx(used[1], rel=1e-4)
            assert 0.5 < abs(used[0]) < 2.0
            gains.append(used[0])
        own, rest = explained(item.target.numpy(), by[:1])
        assert rest < 1e-6
        np.testing.assert_allclose(own, weights[:, :2], atol=1e-4)
    assert min(gains) < 0 < max(gains)


def test_remixing_takes_the_other_stems_from_other_songs(folder: Path) -> None:
    data = dataset(folder, augment=Augmentation(p_remix=1.0))
    for index in range(4):
        item = data[index]
        own = [parts(folder, item.key, stem) for stem in STEMS]
        others = (item.input - item.target).numpy()
        _, rest = explained(others, own)
        assert rest > 0.05  # nothing of it is of this place
        assert level(others) == pytest.approx(0.1 * 3**0.5, rel=0.1)


def test_separated_input_and_target_are_altered_alike(folder: Path, pairs: Path) -> None:
    data = dataset(folder, input="separated", pairs=pairs, augment=ALIKE)
    for index in range(8):
        item = data[index]
        torch.testing.assert_close(2 * item.input, item.target)
        assert not np.allclose(item.target.numpy(), parts(folder, item.key, "bass"))
    plain = dataset(folder, input="separated", pairs=pairs)[0]
    np.testing.assert_array_equal(plain.target.numpy(), parts(folder, plain.key, "bass"))
    assert AUGMENTED not in plain.key


def test_the_mixture_beside_a_separated_stem_is_altered_as_the_stem_is(
    folder: Path, pairs: Path
) -> None:
    how: dict[str, Any] = {"input": "separated+mixture", "pairs": pairs}
    data = dataset(folder, **how, augment=ALIKE)
    for index in range(8):
        item = data[index]
        separated, mixture = item.input[:2], item.input[2:]
        torch.testing.assert_close(2 * separated, item.target)
        weights, rest = explained(
            mixture.numpy(), [parts(folder, item.key, stem) for stem in STEMS]
        )
        assert rest < 1e-6
        own, _ = explained(item.target.numpy(), [parts(folder, item.key, "bass")])
        for place in range(4):
            np.testing.assert_allclose(weights[:, 2 * place : 2 * place + 2], own, atol=1e-4)
    alone = dataset(folder, **how, p_alone=0.5)
    is_alone = [bool((alone[index].input[2:] == 0).all()) for index in range(40)]
    assert 8 < sum(is_alone) < 32
    assert all((alone[index].input[:2] != 0).any() for index in range(40))


def test_more_of_the_rest_leaks_into_separated_stems(folder: Path, pairs: Path) -> None:
    how: dict[str, Any] = {"input": "separated+mixture", "pairs": pairs, "max_leak_db": -6.0}
    data, leaks = dataset(folder, **how, augment=ALIKE), []
    for index in range(40):
        item = data[index]
        added = item.input[:2] - item.target / 2  # what a separator gave is half of the target
        rest = item.input[2:] - item.target
        share = float((added * rest).sum() / rest.square().sum())
        torch.testing.assert_close(added, share * rest, atol=1e-5, rtol=1e-3)
        leaks.append(share)
    assert max(leaks) < 10 ** (-6 / 20)
    assert 10 < sum(leak > 5e-4 for leak in leaks) < 30
    valid = dataset(folder, **how, is_valid=True)[0]
    torch.testing.assert_close(valid.input[:2], valid.target / 2)


def test_pairs_that_do_not_fit_are_drawn_again(folder: Path, pairs: Path, tmp_path: Path) -> None:
    library = open_library(folder)
    wrong = tmp_path / "pairs"
    shutil.copytree(pairs, wrong)
    for track in library.tracks[:3]:
        write(wrong / track.key / "bass.wav", noise(9))
    how: dict[str, Any] = {"input": "separated", "pairs": wrong, "n_valid_tracks": 0}
    everything = {dataset(folder, **how)[index].key[:7] for index in range(60)}
    assert "track 0" in everything
    data = dataset(folder, **how, min_sdr_db=3.0, n_tries=60)
    assert {data[index].key[:7] for index in range(60)} == {"track 3", "track 5"}


def test_validation_is_not_augmented(folder: Path) -> None:
    data = dataset(folder, augment=EVERYTHING, is_valid=True)
    for index in range(6):
        item = data[index]
        np.testing.assert_array_equal(item.target.numpy(), parts(folder, item.key, "bass"))
        assert AUGMENTED not in item.key


def test_a_mixture_file_is_heard_unless_stems_are_altered(tmp_path: Path) -> None:
    bass, drums, master = noise(1), noise(2), noise(3)
    for stem, audio in (("bass", bass), ("drums", drums), ("mixture", master)):
        write(tmp_path / "A" / f"{stem}.wav", audio)
    whole: dict[str, Any] = {"segment_s": 4.0, "n_valid_tracks": 0}
    np.testing.assert_array_equal(dataset(tmp_path, **whole)[0].input.numpy(), master)
    item = dataset(tmp_path, **whole, augment=Augmentation(p_polarity=1.0))[0]
    np.testing.assert_allclose(item.input.numpy(), -(bass + drums), atol=1e-6)
    (tmp_path / "A" / "drums.wav").unlink()
    item = dataset(tmp_path, **whole, augment=Augmentation(p_polarity=1.0))[0]
    np.testing.assert_array_equal(item.input.numpy(), master)
    np.testing.assert_array_equal(item.target.numpy(), bass)


def test_the_mixture_can_be_the_target(folder: Path) -> None:
    item = dataset(folder, stem="mixture", input="clean")[0]
    assert item.input is item.target
    stems = [stem for stem in STEMS if (folder / item.key[:7] / f"{stem}.wav").exists()]
    mixed = sum(parts(folder, item.key, stem) for stem in stems)
    np.testing.assert_allclose(item.target.numpy(), mixed, atol=1e-6)


def test_real_music_of_another_rate_as_mono(tmp_path: Path) -> None:
    audio, rate = sf.read(EXCERPT, frames=3 * 44_100, dtype="float32")
    write(tmp_path / "A" / "bass.wav", audio.T, rate)
    data = dataset(tmp_path, input="clean", sample_rate=24_000, n_channels=1, segment_s=3.0)
    item = data[0]
    assert item.target.shape == (1, 72_000)
    found = np.abs(np.fft.rfft(item.target[0].numpy()))[:1000]
    expected = np.abs(np.fft.rfft(audio.mean(axis=1)))[:1000] * 24_000 / 44_100
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.max())


def test_both_datasets_at_once(folder: Path) -> None:
    options = DataOptions(input="noisy", segment_s=0.5, n_valid_tracks=1)
    train, valid = open_datasets(folder, options, sample_rate=RATE, n_channels=1)
    assert (len(train.tracks), len(valid.tracks)) == (4, 1)
    assert valid.is_valid


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"stem": "kazoo"}, "no training track of .* has the stem kazoo"),
        ({"named": ("bass", "other")}, "lists what is not other"),
        ({"stem": "mixture"}, 'needs data.input "clean" or "noisy"'),
        ({"input": "separated"}, "`mssgen data pairs`"),
        ({"input": "loud"}, "data.input = 'loud' is unknown; use one of separated"),
        ({"input": "noisy", "augment": EVERYTHING}, 'p_remix works with data.input "mixture" only'),
        (
            {"segment_s": 0.0},
            r"data\.segment_s = 0\.0 is .* more than 0, 3600 or less",
        ),
        ({"segment_s": float("nan")}, r"segment_s = nan"),
        ({"start_step_s": -1.0}, r"data\.start_step_s"),
        ({"n_tries": 0}, r"data\.n_tries = 0 is out of range; use 1 or more"),
        ({"n_valid_tracks": -1}, r"data\.n_valid_tracks"),
        ({"max_tracks": -1}, r"data\.max_tracks"),
        ({"noise_db": 100.0}, r"data\.noise_db = 100"),
        ({"p_alone": 1.5}, r"data\.p_alone = 1\.5 is out of range; use 0 to 1"),
        ({"min_sdr_db": 100.0}, r"data\.min_sdr_db = 100"),
        ({"max_leak_db": 3.0}, r"data\.max_leak_db = 3\.0 is out of range; use -60 to 0"),
        ({"n_channels": 3}, "1 or 2 channels, not 3"),
        ({"seed": -1}, "`seed=-1` is negative"),
    ],
)
def test_wrong_options(folder: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataset(folder, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"p_swap": 1.5}, r"p_swap = 1\.5 is out of range; use 0 to 1"),
        ({"p_remix": -0.1}, r"p_remix = -0\.1 is out of range; use 0 to 1"),
        ({"min_gain_db": 3.0}, "must not exceed"),
        ({"max_gain_db": 90.0}, "-60 to 60"),
        ({"max_tilt_db": -1.0}, "max_tilt_db"),
    ],
)
def test_wrong_augmentations(how: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Augmentation(**how)


def test_changes() -> None:
    audio = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(Change(-0.5, True)(audio), [[-1.5, -2.0], [-0.5, -1.0]])
    assert draw_change(Augmentation(), np.random.default_rng(0), 2) == Change()
    assert not draw_change(Augmentation(p_swap=1.0), np.random.default_rng(0), 1).is_swapped
    numbers = np.random.default_rng(0)
    gains = [draw_change(Augmentation(-6, 3), numbers, 2).gain for _ in range(200)]
    assert 10 ** (-6 / 20) <= min(gains) < 0.55
    assert 1.3 < max(gains) <= 10 ** (3 / 20)


def test_a_tilt_is_a_slope_around_one_kilohertz() -> None:
    time = np.arange(44_100) / 44_100
    for frequency, gain_db in ((551.25, -3.0), (1102.5, 0.0), (8820.0, 9.0)):
        tone = np.sin(2 * np.pi * frequency * time).astype(np.float32)[None, :44_000]
        louder_db = level_db(Change(tilt_db=3.0)(tone)) - level_db(tone)
        assert louder_db == pytest.approx(gain_db, abs=0.05)
    numbers = np.random.default_rng(0)
    tilts = [draw_change(Augmentation(max_tilt_db=2.0), numbers, 2).tilt_db for _ in range(200)]
    assert -2 <= min(tilts) < -1.8
    assert 1.8 < max(tilts) <= 2


def test_noise_on_silence_is_silence() -> None:
    silence = np.zeros((2, 100), np.float32)
    np.testing.assert_array_equal(add_noise(silence, 0.0, np.random.default_rng(0)), silence)
    assert level_db(silence) == -np.inf
