"""Tags and cover art travel from any song into any stem whose format can hold them."""

from collections.abc import Callable
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile as sf
from mutagen.flac import FLAC
from mutagen.id3 import APIC, COMM, ID3, RVA2, TCON, TDRC, TIT2, TPE1, TRCK, TXXX
from mutagen.mp3 import MP3

from mssgen.audio.encodings import Encoding
from mssgen.audio.tags import Picture, Tags, read_tags, write_tags
from mssgen.audio.writing import StemWriter

from support.models import EXCERPT

COVER = Picture("image/png", 3, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)
BACK = Picture("image/jpeg", 4, b"\xff\xd8\xff" + b"back" * 50)
SONG = Tags(
    {
        "title": ("Ætt — 曲",),
        "artist": ("One", "Two"),
        "album": ("Álbum",),
        "albumartist": ("Various",),
        "date": ("2007-05-11",),
        "genre": ("Metal",),
        "tracknumber": ("3/12",),
        "discnumber": ("1/2",),
        "comment": ("Lively",),
        "bpm": ("180",),
    },
    (COVER, BACK),
)
TAGGED = ["wav", "aiff", "flac", "ogg", "opus", "mp3"]


def write_stem(target: Path, container: str, tags: Tags | None = None) -> Path:
    samples = np.linspace(-0.5, 0.5, 2 * 9600, dtype=np.float32).reshape(2, -1)
    with StemWriter(
        target,
        sample_rate=48_000,
        n_channels=2,
        n_samples=9600,
        encoding=Encoding(container, "24"),
        clip="clamp",
    ) as writer:
        writer.write(samples)
        return writer.finish(tags=tags, stem="bass")


@pytest.mark.parametrize("container", TAGGED)
def test_round_trip(tmp_path: Path, container: str) -> None:
    # The name says nothing of the format, like that of a file that is not yet renamed.
    bare = write_stem(tmp_path / "bare", container)
    stem = write_stem(tmp_path / "stem", container, SONG)
    found = read_tags(stem)
    assert found.fields == SONG.fields | {"title": ("Ætt — 曲 (bass)",)}
    assert found.pictures == (COVER, BACK)
    assert np.array_equal(sf.read(stem)[0], sf.read(bare)[0])
    assert sf.info(stem).frames == 9600


@pytest.mark.parametrize("container", ["caf", "w64", "raw"])
def test_formats_without_tags_are_left_alone(tmp_path: Path, container: str) -> None:
    stem = write_stem(tmp_path / "stem", container)
    before = stem.read_bytes()
    assert write_tags(stem, SONG, stem="bass", container=container) is False
    assert stem.read_bytes() == before


@pytest.mark.parametrize("container", TAGGED)
def test_without_tags_nothing_is_written(tmp_path: Path, container: str) -> None:
    stem = write_stem(tmp_path / "stem", container)
    before = stem.read_bytes()
    assert write_tags(stem, Tags(), stem="bass", container=container) is False
    assert stem.read_bytes() == before
    assert read_tags(stem) == Tags()


def test_a_song_without_a_title_gets_none(tmp_path: Path) -> None:
    stem = write_stem(tmp_path / "stem", "flac", Tags({"artist": ("Sectoid",)}))
    assert read_tags(stem).fields == {"artist": ("Sectoid",)}


def test_what_describes_the_mix_stays_behind(tmp_path: Path) -> None:
    flac = tmp_path / "song.flac"
    flac.write_bytes(EXCERPT.read_bytes())
    file = FLAC(flac)
    file.update({"replaygain_track_gain": "-9.1 dB", "R128_TRACK_GAIN": "-1000", "isrc": "XX"})
    file.save()
    mp3 = tmp_path / "song.mp3"
    sf.write(mp3, np.zeros((4800, 2)), 48_000)
    tags = ID3()
    for frame in (
        TIT2(text=["Song"]),
        TXXX(desc="replaygain_track_gain", text=["-9.1 dB"]),
        RVA2(desc="track", channel=1, gain=-9.0, peak=1.0),
        COMM(lang="eng", desc="iTunNORM", text=["00000150"]),
    ):
        tags.add(frame)
    tags.save(mp3)
    for song, title in ((flac, "War of freedom (excerpt)"), (mp3, "Song")):
        found = read_tags(song)
        assert found.fields["title"] == (title,)
        for container in TAGGED:
            stem = write_stem(tmp_path / f"stem.{container}", container, found)
            written = str(dict(mutagen.File(stem).tags)).lower()
            assert "gain" not in written
            assert "norm" not in written
            assert "rva2" not in written
            assert "isrc" not in written
            assert title.lower() in written


def test_old_id3_is_read(tmp_path: Path) -> None:
    song = tmp_path / "song.mp3"
    sf.write(song, np.zeros((4800, 2)), 48_000)
    tags = ID3()
    for frame in (
        TIT2(text=["Song"]),
        TPE1(text=["Sectoid"]),
        TDRC(text=["2007"]),
        TRCK(text=["3"]),
        TCON(text=["(9)"]),
        APIC(mime="image/png", type=3, desc="front", data=COVER.data),
    ):
        tags.add(frame)
    tags.update_to_v23()
    tags.save(song, v2_version=3)
    found = read_tags(song)
    assert found.fields == {
        "title": ("Song",),
        "artist": ("Sectoid",),
        "date": ("2007",),
        "tracknumber": ("3",),
        "genre": ("Metal",),
    }
    assert found.pictures == (COVER,)


def test_the_info_list_of_a_wav_is_read(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    with sf.SoundFile(song, "w", 48_000, 2) as file:
        file.title, file.artist, file.software = "Song", "Sectoid", "a recorder"
        file.write(np.zeros((100, 2)))
    fields = read_tags(song).fields
    assert fields == {"title": ("Song",), "artist": ("Sectoid",)}


def missing(path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.touch()


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def broken_id3(path: Path) -> None:
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x7f\x7fTIT2" + b"\xff" * 400)


def broken_flac(path: Path) -> None:
    path.write_bytes(EXCERPT.read_bytes()[:60])


@pytest.mark.parametrize("make", [missing, empty, noise, broken_id3, broken_flac])
@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.wav", "a.m4a", "a"])
def test_odd_files_have_no_tags(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    assert read_tags(tmp_path / name) == Tags()


def test_tags_that_cannot_be_written_cost_no_stem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stem = write_stem(tmp_path / "stem", "flac")
    before = stem.read_bytes()
    assert write_tags(stem, SONG, stem="bass", container="ogg") is False
    assert "the bass stem could not be tagged" in caplog.text
    assert stem.read_bytes() == before


def test_a_picture_too_large_for_flac_is_left_out(tmp_path: Path) -> None:
    huge = Picture("image/png", 3, bytes(2**24))
    stem = write_stem(tmp_path / "stem", "flac", Tags({"title": ("Song",)}, (huge, BACK)))
    assert read_tags(stem) == Tags({"title": ("Song (bass)",)}, (BACK,))


def test_mp3_keeps_its_length_header(tmp_path: Path) -> None:
    stem = write_stem(tmp_path / "stem.mp3", "mp3", SONG)
    assert MP3(stem).info.length == pytest.approx(0.2, abs=0.001)
