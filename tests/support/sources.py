"""Sources of rendered songs: a fetched package, a MIDI file and a soundfont, all made here."""

import json
import struct
from pathlib import Path

import numpy as np

from mssgen.rendering.midi import MidiFile


def package(cache: Path, name: str, files: dict[str, bytes]) -> Path:
    """A package as if it had been fetched."""
    folder = cache / name
    for path, data in files.items():
        target = folder / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    record = {"name": name, "version": "1.0-1", "sha256": "00", "licences": ["CC0-1.0"]}
    (folder / "package.json").write_text(json.dumps(record))
    return folder


def midi_bytes(song: MidiFile, folder: Path) -> bytes:
    song.save(folder / "song.mid")
    return (folder / "song.mid").read_bytes()


def soundfont() -> bytes:
    """A soundfont of one looped square wave, for all melodies and drums."""
    wave = (np.sign(np.sin(np.arange(1000) * 2 * np.pi / 100)) * 8000).astype("<i2")
    data = wave.tobytes() + bytes(92)

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    def name20(text: str) -> bytes:
        return text.encode().ljust(20, b"\0")

    presets = [("tone", 0, 0), ("kit", 0, 128)]
    phdr = (
        b"".join(
            name20(name) + struct.pack("<HHHIII", program, bank, index, 0, 0, 0)
            for index, (name, program, bank) in enumerate(presets)
        )
        + name20("EOP")
        + struct.pack("<HHHIII", 0, 0, len(presets), 0, 0, 0)
    )
    pbag = b"".join(struct.pack("<HH", index, 0) for index in range(len(presets) + 1))
    pgen = struct.pack("<HH", 41, 0) * len(presets) + bytes(4)
    inst = name20("tone") + struct.pack("<H", 0) + name20("EOI") + struct.pack("<H", 1)
    ibag = struct.pack("<HHHH", 0, 0, 2, 0)
    igen = struct.pack("<HHHH", 54, 1, 53, 0) + bytes(4)  # looped; sample 0
    shdr = name20("wave") + struct.pack("<IIIIIBbHH", 0, 1000, 100, 900, 44100, 60, 0, 0, 1)
    shdr += name20("EOS") + bytes(26)
    tables = [(b"phdr", phdr), (b"pbag", pbag), (b"pmod", bytes(10)), (b"pgen", pgen)]
    tables += [(b"inst", inst), (b"ibag", ibag), (b"imod", bytes(10)), (b"igen", igen)]
    tables += [(b"shdr", shdr)]
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"INAM", b"test\0\0")
    lists = chunk(b"LIST", b"INFO" + info)
    lists += chunk(b"LIST", b"sdta" + chunk(b"smpl", data))
    lists += chunk(b"LIST", b"pdta" + b"".join(chunk(*table) for table in tables))
    return chunk(b"RIFF", b"sfbk" + lists)
