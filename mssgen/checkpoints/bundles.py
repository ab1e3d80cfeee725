"""What the registry knows about a model; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RemoteFile:
    """One file of a hub repository; `sha256` and `size_bytes` are None if not known for certain."""

    name: str
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def signature(self) -> str:
        """Demucs' name of the weights ("955717e8"): the file's name without its suffix."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Bundle:
    """A named model: where its weights are and what is known about them."""

    name: str
    stage: str
    """A key of `registry.STAGES`."""
    architecture: str
    repo: str
    """OWNER/NAME on the hub; empty if the model exists only in weights/<name>."""
    revision: str | None
    """Commit hash; None for the default branch, which the note mentions."""
    files: tuple[RemoteFile, ...]  # a bag of models has several
    stems: tuple[str, ...]
    """Stem names in the order of the model's output; empty for a codec."""
    sample_rate: int  # Hz
    licence: str
    licence_note: str
    """How certain the licence is, and why."""
    note: str
    member_stems: tuple[tuple[str, ...], ...] | None = None
    """For a bag, the stems to take from each file; None: all stems from each."""
    is_joint: bool = False
    """Whether the files are parts of one network, with a stem each, and not a bag of networks."""
    segment_s: float | None = None
    """Segment length in seconds that replaces the network's own; None keeps that."""
    quality_note: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of a network whose files hold tensors only, as in a config.json."""
    origin: str | None = None
    """Who trained it, and on what, as published."""
    sdr: str | None = None
    """SDR in dB with its test set, as published."""
    page: str | None = None
    """Web address of the file, for a model that is not on the hub."""
    embedded: bool = False
    """Whether a copy ships in weights/<name>."""
    is_address: bool = False
    """Whether the user named a repository (hf://) instead of a model of this table."""

    @property
    def size_bytes(self) -> int | None:
        """Total size of the files; None if one is not known."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def is_verified(self) -> bool:
        """Whether every file's hash is known, so that downloads are checked."""
        return all(file.sha256 is not None for file in self.files)

    def members(self, wanted_stems: frozenset[str] | None) -> tuple[int, ...]:
        """Indices of the files that `wanted_stems` (None: all stems) need."""
        if self.member_stems is None or wanted_stems is None:
            return tuple(range(len(self.files)))
        return tuple(
            index for index, stems in enumerate(self.member_stems) if wanted_stems & set(stems)
        )
