"""The models that have a name: one table, no classes to register with, no torch.

Sources of the facts below. Repositories and file names: the naming rule and the bag definitions
of the demucs package. Hashes, sizes and revisions: never computed by us from a download of our
own, but published with the same value by several unrelated projects; where that was not so the
field is None and the note says it. A hash given here is checked on every download and every use.
"""

import difflib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mssgen.errors import UsageError

STEMS = ("drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a hub repository; `sha256` and `size_bytes` are None where not known for sure."""

    name: str
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def signature(self) -> str:
        """The name the training run gave the weights: the file's name without its suffix."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Bundle:
    """A named model: where its weights are and what is known about them."""

    name: str
    stage: str
    architecture: str
    repo: str
    revision: str | None  # a commit; None follows the default branch, and the note says so
    files: tuple[RemoteFile, ...]
    stems: tuple[str, ...]  # in the order of the model's output
    sample_rate: int  # Hz
    licence: str
    licence_note: str  # how certain the licence is, and why
    note: str
    member_stems: tuple[tuple[str, ...], ...] | None = None  # a bag: what each file gives; None all
    segment_s: float | None = None  # replaces the model's own segment, as its bag asks; None keeps
    quality_note: str | None = None
    embedded: bool = False  # a reduced copy ships in weights/<name>

    @property
    def size_bytes(self) -> int | None:
        """Sum over the files, None if one is not known."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def members(self, wanted_stems: frozenset[str] | None) -> tuple[int, ...]:
        """Indices of the files needed for `wanted_stems` (None: all stems)."""
        if self.member_stems is None or wanted_stems is None:
            return tuple(range(len(self.files)))
        return tuple(
            index for index, stems in enumerate(self.member_stems) if wanted_stems & set(stems)
        )


_LICENCE = "contested: MIT on the hub card, research use according to the author"
_LICENCE_NOTE = (
    "Two statements contradict each other. (1) The model card on the hub carried the tag `mit`; "
    "a third party reports that the tag was removed from the HTDemucs card on 2026-08-31, which "
    "was not checked here. (2) The author wrote in 2022 (facebookresearch/demucs#327) that the "
    "MIT licence covers the code, not the weights, which are meant for research. Neither was "
    "withdrawn; ask the author before a commercial use."
)

REGISTRY: dict[str, Bundle] = {
    bundle.name: bundle
    for bundle in (
        Bundle(
            name="htdemucs",
            stage="separate",
            architecture="htdemucs",
            repo="adefossez/HTDemucs",
            revision="cbc8a9b1a87023b7fd74e7b3412e6321c0eab003",
            files=(
                RemoteFile(
                    "955717e8.safetensors",
                    "d9fa14133cfcc034a6758923bb3a8ca9f8dfd0b582134643bbf83f72c17576dd",
                    84_025_440,
                ),
            ),
            stems=STEMS,
            sample_rate=44_100,
            licence=_LICENCE,
            licence_note=_LICENCE_NOTE,
            embedded=True,
            note="Hybrid Transformer Demucs (v4), the default; an int8 copy ships with mssgen.",
        ),
        Bundle(
            name="htdemucs_ft",
            stage="separate",
            architecture="htdemucs",
            repo="adefossez/HTDemucs-ft",
            revision="d74ac89c3a1e874fc78f152555cf4d8533f06cd4",
            files=(
                RemoteFile(
                    "f7e0c4bc.safetensors",
                    "2c85ab3c62dd6edd8e0b965e38b16fd1cdde357cc25de6b6bc9ce7c83f60925f",
                    84_025_440,
                ),
                RemoteFile(
                    "d12395a8.safetensors",
                    "5b01a97567ae9a3178a6236fb520251045c03eb8834bc8c24a4eec11d6c8fb56",
                    84_025_440,
                ),
                RemoteFile(
                    "92cfc3b6.safetensors",
                    "a241863551f30d01c42bd7b97da40839922ead3acb0f1fcab25682f55b4eeb59",
                    84_025_440,
                ),
                RemoteFile(
                    "04573f0d.safetensors",
                    "68854b0d7c2b3274723b5761f6fd9f5aec5f1bcd3f0de7c1669546fdb7871b7c",
                    84_025_440,
                ),
            ),
            member_stems=tuple((stem,) for stem in STEMS),
            stems=STEMS,
            sample_rate=44_100,
            licence=_LICENCE,
            licence_note=_LICENCE_NOTE,
            quality_note="a little better than htdemucs; each stem has its own network, so all "
            "four take four times as long and one stem takes as long as htdemucs",
            note="htdemucs fine-tuned once for each stem; only the files of wanted stems are read.",
        ),
        Bundle(
            name="htdemucs_6s",
            stage="separate",
            architecture="htdemucs",
            repo="adefossez/HTDemucs-6s",
            revision="053e1404489b3dc58bf718224fac4b7316de8c93",
            files=(
                RemoteFile(
                    "5c90dfd2.safetensors",
                    "d2a1745f0744721f6b8ca5bf469b67c651ea5ed1b52998cab033b2158609d411",
                    54_885_744,
                ),
            ),
            stems=(*STEMS, "guitar", "piano"),
            sample_rate=44_100,
            licence=_LICENCE,
            licence_note=_LICENCE_NOTE,
            quality_note="the author calls the piano stem poor",
            note="Six stems: guitar and piano besides the usual four.",
        ),
        Bundle(
            name="hdemucs_mmi",
            stage="separate",
            architecture="hdemucs",
            repo="adefossez/Demucs-hdemucs_mmi",
            revision=None,
            files=(RemoteFile("75fc33f5.safetensors"),),
            stems=STEMS,
            sample_rate=44_100,
            segment_s=44.0,
            licence=_LICENCE,
            licence_note=_LICENCE_NOTE,
            note="Hybrid Demucs (v3) retrained on more songs, about 167 MB; neither the hash nor "
            "the revision is known for sure, so the download follows the default branch unchecked.",
        ),
    )
}


@dataclass(frozen=True)
class Layout:
    """A network known by the names and shapes of its tensors, for files that carry no options."""

    architecture: str
    options: dict[str, Any]  # keyword values of the constructor


# The key is `formats.fingerprint` of the state. A layout says nothing about whose weights
# they are: htdemucs and every member of htdemucs_ft have this one.
LAYOUTS: dict[str, Layout] = {
    "70a2a1ff4a677ab7": Layout(
        "htdemucs",
        {
            "sources": list(STEMS),
            "bottom_channels": 512,
            "t_layers": 5,
            "t_heads": 8,
            "dconv_mode": 3,
            "segment": Fraction(39, 5),
            "samplerate": 44_100,
        },
    ),
}


def lookup(name: str) -> Bundle:
    """The bundle called `name`; raises UsageError with the nearest names and the whole list."""
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name.lower(), REGISTRY, n=2)
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(
        f"unknown model '{name}': choose one of {', '.join(REGISTRY)} (a file or folder is given "
        f"by its path, such as ./{name}){guess}"
    )
