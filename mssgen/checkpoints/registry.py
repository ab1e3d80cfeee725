"""Table of the named models; imports no torch.

Sources: repositories and file names follow the naming rule and the bag definitions of the demucs
package. Hashes, sizes and revisions were not computed from our own downloads, but are published
with the same value by several unrelated projects; where they are not, the field is None and the
note says so. A hash given here is checked on every download and every use.
"""

import difflib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mssgen.checkpoints.bundles import Bundle, RemoteFile
from mssgen.checkpoints.released import released_separators
from mssgen.checkpoints.stem_files import separators_by_stem
from mssgen.errors import UsageError
from mssgen.files import sha256_of

STEMS = ("drums", "bass", "other", "vocals")

# For each stage: how messages call its models, and the command or parameter that takes them.
STAGES = {
    "separate": ("a separator", "`mssgen separate`"),
    "codec": ("a codec", "`mssgen codec`"),
    "enhance": ("a stem encoder", "`mssgen enhance`"),
    "refine": ("a refiner", "`refiner` of `mssgen enhance`"),
}


_LICENCE = "contested: MIT on the hub card, research use according to the author"
_LICENCE_NOTE = (
    "Two statements contradict each other. (1) The model card on the hub carried the tag `mit`; "
    "a third party reports that the tag was removed from the HTDemucs card on 2026-08-31, which "
    "was not checked here. (2) The author wrote in 2022 (facebookresearch/demucs#327) that the "
    "MIT licence covers the code, not the weights, which are meant for research. Neither was "
    "withdrawn; ask the author before a commercial use."
)

_ENCODEC_LICENCE = (
    "contested: MIT on the hub card, CC BY-NC 4.0 in the package",
    "Statements contradict each other. (1) The code is MIT since April 2023, and the model card of "
    "facebook/encodec_48khz carries the tag `mit`. (2) The package encodec 0.1.1 declares CC BY-NC "
    "4.0, and whether the weights are MIT is asked, without an answer, in "
    "facebookresearch/encodec#48, #49 and #69. Ask the authors before a commercial use.",
)
_DAC_LICENCE = ("MIT", "The package and the releases of the weights say MIT.")
_VAMPNET_LICENCE = (
    "CC BY-NC-SA 4.0",
    "VampNet's code is MIT, its weights are CC BY-NC-SA 4.0, and so is what is made from them.",
)


def _codec(
    name: str,
    architecture: str,
    repo: str,
    sample_rate: int,
    licence: tuple[str, str],
    what: str,
    file: RemoteFile | None = None,
) -> Bundle:
    """A codec of the hub; by default one file in transformers' layout, without a known hash."""
    unknown = "the revision is not known" if file else "neither the hash nor the revision is known"
    return Bundle(
        name=name,
        stage="codec",
        architecture=architecture,
        repo=repo,
        revision=None,
        files=(file or RemoteFile("model.safetensors"),),
        stems=(),
        sample_rate=sample_rate,
        licence=licence[0],
        licence_note=licence[1],
        note=f"{what}; {unknown} for sure, so the download follows the default branch"
        f"{'' if file else ' unchecked'}.",
    )


_OUR_LICENCE_NOTE = (
    "Trained by mssgen's own recipes on music rendered from free packages, whose licences "
    "weights/README.md lists. The weights are offered under CC BY 4.0 as far as we hold rights in "
    "them; whether the licences of training music extend to weights is unsettled."
)


def _ours(
    name: str, stage: str, architecture: str, note: str, stems: tuple[str, ...] = ()
) -> Bundle:
    """A model trained by mssgen, which ships in weights/<name> and is not on the hub."""
    return Bundle(
        name=name,
        stage=stage,
        architecture=architecture,
        repo="",
        revision=None,
        files=(),
        stems=stems,
        sample_rate=44_100,
        licence="CC BY 4.0",
        licence_note=_OUR_LICENCE_NOTE,
        note=note,
        embedded=True,
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
            note="Hybrid Demucs (v3) retrained on more songs, about 167 MB, run by the demucs "
            "package (extra `demucs`); neither the hash nor the revision is known for sure, so the "
            "download follows the default branch unchecked.",
        ),
        *released_separators(),
        *separators_by_stem(),
        _ours(
            "stem_codec",
            "codec",
            "stem",
            "mssgen's codec for stems, stereo, 86 Hz, up to 40 codebooks of 1024 (34 kbps), the "
            "first 8 for band energies.",
        ),
        *(
            _ours(
                f"warm_{stem}",
                "enhance",
                "stem_encoder",
                f"Estimates stem_codec's codes of the clean {stem} from the {stem} that htdemucs "
                "separated.",
                (stem,),
            )
            for stem in ("bass", "drums", "vocals", "other")
        ),
        _codec(
            "encodec_24khz",
            "seanet",
            "facebook/encodec_24khz",
            24_000,
            _ENCODEC_LICENCE,
            "EnCodec, mono, 75 Hz, up to 32 codebooks of 1024 (24 kbps); about 93 MB",
        ),
        _codec(
            "encodec_48khz",
            "seanet",
            "facebook/encodec_48khz",
            48_000,
            _ENCODEC_LICENCE,
            "EnCodec, stereo, 150 Hz, up to 16 codebooks of 1024 (24 kbps), coded in segments of "
            "1 s; about 76 MB",
        ),
        _codec(
            "dac_44khz",
            "dac",
            "descript/dac_44khz",
            44_100,
            _DAC_LICENCE,
            "Descript Audio Codec, mono, 86 Hz, 9 codebooks of 1024 (8 kbps); about 307 MB",
        ),
        _codec(
            "dac_24khz",
            "dac",
            "descript/dac_24khz",
            24_000,
            _DAC_LICENCE,
            "Descript Audio Codec, mono, 75 Hz, 32 codebooks of 1024 (24 kbps); the repository is "
            "presumed from that of dac_44khz",
        ),
        _codec(
            "dac_16khz",
            "dac",
            "descript/dac_16khz",
            16_000,
            _DAC_LICENCE,
            "Descript Audio Codec, mono, 50 Hz, 12 codebooks of 1024 (6 kbps); the repository is "
            "presumed from that of dac_44khz",
        ),
        _codec(
            "vampnet_codec",
            "dac",
            "hugggof/vampnet",
            44_100,
            _VAMPNET_LICENCE,
            "The codec of VampNet (LAC), mono, 57 Hz, 14 codebooks of 1024 (8 kbps); VampNet reads "
            "no other codec's tokens",
            RemoteFile(
                "codec.pth",
                "3db3fa43ab5d160439ddb81fc540b5573ad5ae962230de3fc5b47d218845b855",
                600_996_465,
            ),
        ),
    )
}


@dataclass(frozen=True)
class Layout:
    """Options of a network that is recognised by its tensors' names and shapes."""

    architecture: str
    options: dict[str, Any]
    """Keyword arguments of the constructor."""


# The key is `formats.fingerprint` of the state dict. Models can share a layout: htdemucs and every
# member of htdemucs_ft have this one.
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


def shipped_encoders() -> dict[str, str]:
    """Names of the stem encoders that ship with mssgen, by stem."""
    rows = (row for row in REGISTRY.values() if row.stage == "enhance" and row.embedded)
    return {row.stems[0]: row.name for row in rows}


def known_file(path: Path) -> Bundle | None:
    """The bundle whose only file has the content of `path`, or None; reads it only if it may be."""
    n_bytes = path.stat().st_size
    rows = [row for row in REGISTRY.values() if row.size_bytes == n_bytes and row.is_verified]
    digest = sha256_of(path) if rows else None
    return next((row for row in rows if [each.sha256 for each in row.files] == [digest]), None)


def lookup(name: str, stage: str | None = None) -> Bundle:
    """The bundle called `name`, which must be for `stage` (None: any).

    Raises UsageError for an unknown name, with the nearest names, and for a model of another stage,
    with the command that takes it.
    """
    choices = [key for key, bundle in REGISTRY.items() if stage in (None, bundle.stage)]
    found = REGISTRY.get(name)
    if found is not None and name not in choices:
        what, command = STAGES[found.stage]
        wanted, _ = STAGES[stage or found.stage]
        raise UsageError(
            f"{name} is {what}, not {wanted}: give it to {command}, or choose a name from "
            "`mssgen models list`"
        )
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), choices, n=2)
    example = name if name.startswith(("./", "../", "/")) else f"./{name}"
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(
        f"unknown model '{name}': choose a name from `mssgen models list` (a file or folder is "
        f"given by its path, such as {example}){guess}"
    )
