"""What a studio keeps in a WAV travels into its stems, and so does how they were made."""

import hashlib
import struct
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from mssgen.audio.containers.chunks import chunks
from mssgen.audio.containers.wav_chunks import StudioChunks, read_studio_chunks, write_studio_chunks
from mssgen.audio.reading import open_source
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs.batch import separate_files
from mssgen.jobs.options import WriteOptions
from mssgen.outputs import plan_outputs

from support.toys import toy_separator

RATE = 48_000
TIME_REFERENCE = 10 * 3600 * RATE  # ten o'clock
IXML = (
    b"<?xml version='1.0'?><BWFXML><SPEED><FILE_SAMPLE_RATE>48000</FILE_SAMPLE_RATE>"
    b"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>0</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>"
    b"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>1728000000</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>"
    b"</SPEED><NOTE>take 3</NOTE></BWFXML>"
)


def bext(reference: int) -> bytes:
    return b"Song".ljust(338, b"\0") + struct.pack("<Q", reference) + bytes(602 - 346) + b"A=PCM"


def smpl(rate: int, start: int, end: int) -> bytes:
    head = struct.pack("<9I", 0, 0, round(1e9 / rate), 60, 0, 0, 0, 1, 0)
    return head + struct.pack("<6I", 1, 0, start, end, 0, 0)


def cue(position: int) -> bytes:
    return struct.pack("<III4sIII", 1, 1, position, b"data", 0, 0, position)


def region(length: int) -> bytes:
    return b"adtl" + b"ltxt" + struct.pack("<III4sI", 20, 1, length, b"rgn ", 0) + bytes(4)


STUDIO = (
    (b"bext", bext(TIME_REFERENCE)),
    (b"smpl", smpl(RATE, 4800, 24_000)),
    (b"cue ", cue(12_000)),
    (b"LIST", region(4800)),
    (b"acid", struct.pack("<IHHfIHHf", 0, 60, 0x8000, 0, 8, 4, 4, 120.0)),
    (b"iXML", IXML),
)


def write_song(path: Path, layout: str = "WAV", n_samples: int = RATE) -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, (n_samples, 2))
    sf.write(path, samples, RATE, "PCM_24", format=layout)
    write_studio_chunks(path, StudioChunks(RATE, STUDIO))
    return path


def separated(song: Path, folder: Path, **options: object) -> Path:
    separator = toy_separator()
    done = separate_files(
        find_tracks([str(song)]),
        separator,
        plan_outputs(separator.sources, stems=["bass"]),
        output_dir=folder,
        options=WriteOptions(**options),  # type: ignore[arg-type]
    )
    assert done.n_failed == 0
    (stem,) = (folder / song.stem).iterdir()
    return stem


@pytest.mark.parametrize("layout", ["WAV", "WAVEX", "RF64"])
def test_chunks_travel_byte_for_byte(layout: str, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav", layout)
    stem = separated(song, tmp_path / "out")
    assert read_studio_chunks(stem, RATE).chunks == STUDIO
    with open_source(stem) as source:
        assert sum(block.shape[1] for block in source.blocks()) == RATE
    with open(stem, "rb") as file:
        assert struct.unpack("<4sI", file.read(8)) == (b"RIFF", stem.stat().st_size - 8)
        assert next(chunks(file)).name == b"fmt "


def test_positions_are_those_of_the_new_rate(tmp_path: Path) -> None:
    stem = separated(write_song(tmp_path / "song.wav"), tmp_path / "out", sample_rate=24_000)
    found = dict(read_studio_chunks(stem, 24_000).chunks)
    assert found[b"bext"] == bext(TIME_REFERENCE // 2)
    assert found[b"smpl"] == smpl(24_000, 2400, 12_000)
    assert found[b"cue "] == cue(6000)
    assert found[b"LIST"] == region(2400)
    assert found[b"acid"] == dict(STUDIO)[b"acid"]
    assert found[b"iXML"] == IXML.replace(b"48000<", b"24000<").replace(b"1728", b"864")


@pytest.mark.parametrize("container", ["flac", "aiff", "raw"])
def test_other_formats_do_without(container: str, tmp_path: Path) -> None:
    stem = separated(write_song(tmp_path / "song.wav"), tmp_path / "out", container=container)
    assert read_studio_chunks(stem, RATE).chunks == ()


def test_what_is_huge_or_cut_off_stays_behind(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    sf.write(song, np.zeros((100, 2)), RATE)
    write_studio_chunks(song, StudioChunks(RATE, ((b"iXML", bytes(2**23 + 2)), STUDIO[0])))
    assert read_studio_chunks(song, RATE).chunks == STUDIO[:1]
    song.write_bytes(song.read_bytes()[:-50])
    assert read_studio_chunks(song, RATE).chunks == ()


@given(st.sampled_from([name for name, _ in STUDIO]), st.binary(max_size=700))
def test_damaged_chunks_do_no_harm(name: bytes, content: bytes) -> None:
    ((_, found),) = StudioChunks(RATE, ((name, content),)).at(44_100).chunks
    assert name == b"iXML" or len(found) == len(content)


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_stems_say_how_they_were_made(container: str, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    stem = separated(song, tmp_path / "out", container=container)
    tags = mutagen.File(stem).tags
    said = str(tags["TSSE"]) if "TSSE" in tags else tags["encoder"][0]
    assert "mssgen" in said
    assert "model toy" in said
    assert "overlap 0.25" in said
    assert hashlib.sha256(song.read_bytes()).hexdigest() in said
