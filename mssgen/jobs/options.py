"""Options of jobs: how outputs are written, and how a list of songs is worked through."""

import heapq
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mssgen.audio.encodings import AudioInfo, choose_encoding
from mssgen.audio.reading import MAX_RATE, MIN_RATE
from mssgen.audio.writing import check_clip
from mssgen.errors import UsageError
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.claims import check_sharing
from mssgen.jobs.decisions import EXISTING


@dataclass(frozen=True)
class WriteOptions:
    """Where and how outputs are written; None keeps the format of the input."""

    template: str = "{track}/{stem}.{ext}"
    container: str | None = None
    """Container: a key of `mssgen.audio.encodings.CONTAINERS`; None is wav."""
    bit_depth: str | None = None
    """"16", "24" or "32f"."""
    sample_rate: int | None = None
    """In Hz."""
    clip: str = "rescale"
    """Peaks over full scale, if the format cannot hold them: "rescale" lowers all outputs of the
    song by the same gain, "clamp" limits samples, "none" leaves them to the format."""
    downmix: bool = False
    """Downmix more than two channels to stereo; otherwise each pair of channels is separated."""
    existing: str = "refuse"
    """Handling of outputs that exist already; see `mssgen.jobs.decisions.EXISTING`."""
    has_manifest: bool = True
    """Keep OUTPUT/manifest.jsonl, see `mssgen.jobs.manifest`; "resume" needs it."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that fit no input."""
        check_clip(self.clip)
        if self.existing not in EXISTING:
            raise UsageError(
                f"`existing={self.existing!r}` is unknown; use one of {', '.join(EXISTING)}"
            )
        if self.sample_rate is not None and not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise UsageError(
                f"`sample_rate={self.sample_rate}` is out of range; use {MIN_RATE} to {MAX_RATE}"
            )
        # Every container holds this rate, and one channel.
        rate = self.sample_rate or 48_000
        anything = AudioInfo(rate, 1, "", "")
        choose_encoding(anything, self.container, self.bit_depth).check(rate, 1)

    @property
    def extension(self) -> str:
        """Suffix of the output files, without the dot."""
        return self.container or "wav"

    @property
    def of_sound(self) -> dict[str, Any]:
        """Options that change the samples of all outputs, for the manifest."""
        names = ("bit_depth", "sample_rate", "clip", "downmix")
        return {"format": self.extension, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Shard:
    """One of `n` parts of a list of inputs, each for a process or machine of its own."""

    index: int
    """From 1 to `n`."""
    n: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Part "2/8", the second of eight; raises UsageError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"`shard={text!r}` is not a part such as 1/8, 2/8, ... 8/8")
        return cls(int(found[1]), int(found[2]))

    def take(self, sizes: Sequence[int]) -> list[int]:
        """Indexes of the inputs of this part, in order; `sizes` are those of all inputs, in bytes.

        From the largest to the smallest, each input goes to the part with the fewest bytes so far
        (Graham's rule of the longest processing time). All processes that see the same list with
        the same sizes agree on the parts.
        """
        parts = [(0, part) for part in range(1, self.n + 1)]  # (bytes, part), a heap
        mine = []
        for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
            n_bytes, part = parts[0]
            # An empty file is work too: without its byte, all of them would go to one part.
            heapq.heapreplace(parts, (n_bytes + max(1, sizes[index]), part))
            mine += [index] if part == self.index else []
        return sorted(mine)


@dataclass(frozen=True)
class RunOptions:
    """How a list of songs is worked through."""

    shard: Shard | None = None
    """The part of the list to work on; None is all of it."""
    fail_fast: bool = False
    """Stop at the first song that fails."""
    n_retries: int = 0
    """How often a song is tried again, after all others, if it failed for a passing cause: an
    unreachable disk, too little memory."""

    def __post_init__(self) -> None:
        """Raise UsageError for a negative number."""
        if self.n_retries < 0:
            raise UsageError(f"`n_retries={self.n_retries}` is negative; use 0 or more")

    def mine(self, tracks: Sequence[Track], folder: Path) -> dict[int, int]:
        """Sizes in bytes of the songs to work on, by their index in `tracks`.

        Raises UsageError if the part is to be written to a folder that several runs cannot share.
        """
        sizes = [_size(track) for track in tracks]
        if self.shard is None:
            return dict(enumerate(sizes))
        check_sharing(folder)
        return {index: sizes[index] for index in self.shard.take(sizes)}


def _size(track: Track) -> int:
    try:
        return 0 if track.path == STDIN else os.stat(track.path).st_size
    except (OSError, ValueError):  # opening it says why
        return 0
