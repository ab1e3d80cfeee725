"""Options of jobs: how outputs are written, and how a list of songs is worked through."""

from dataclasses import dataclass
from typing import Any

from mssgen.audio.encodings import AudioInfo, choose_encoding
from mssgen.audio.reading import MAX_RATE, MIN_RATE
from mssgen.audio.writing import check_clip
from mssgen.errors import UsageError
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
