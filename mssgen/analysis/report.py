"""Writes the report of an analysis: tables, plots, sounds, and one HTML page."""

import base64
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

from mssgen import __version__
from mssgen.analysis.codec import CodecAnalysis
from mssgen.analysis.plots import draw
from mssgen.analysis.tables import write_tables
from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import write_audio
from mssgen.files import reported, whole_file
from mssgen.inspection.html import rendered
from mssgen.leftovers import scratch_folder

PAGE = "index.html"
_SOUNDS = "most_frequent"
_AVERAGES: tuple[Callable[[list[float]], float], ...] = (statistics.fmean, statistics.median)
_CAPTIONS = {
    "sdr": "Loss by the codec alone: mean SDR of its reconstruction over files, with the "
    "interquartile range as a band; the right end is the ceiling of any system with this codec.",
    "usage": "Usage of each code, for each codebook and stem; grey: never used.",
    "perplexity": "Perplexity is the equivalent number of equally used codes; short recordings "
    "leave more codes unused than the codec has dead ones.",
    "pca": "Quantised latents of random frames in the two directions of most variance (shares "
    "in per cent); coinciding frames are one larger mark.",
    "mds": "The same frames by metric multidimensional scaling, which preserves their distances "
    "as well as possible in two dimensions.",
}


def write_report(analysis: CodecAnalysis, folder: Path) -> Path:
    """Write tables, plots, sounds and the page to `folder`; returns the page.

    Existing files of the same names are replaced. Each appears complete or not at all, the page
    last. Raises UsageError if packages of the extra are missing, MssgenError if the folder cannot
    be written.
    """
    figures = draw(analysis)
    with reported(folder), scratch_folder() as draft:
        write_tables(analysis, draft)
        for name, figure in figures.items():
            figure.savefig(draft / f"{name}.png")
        sounds = _write_sounds(analysis, draft / _SOUNDS)
        page = _page(analysis, {name: draft / f"{name}.png" for name in figures}, sounds)
        (draft / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path.name == PAGE):
            with whole_file(folder / path.relative_to(draft)) as target:
                shutil.copyfile(path, target)
    return folder / PAGE


def _write_sounds(analysis: CodecAnalysis, folder: Path) -> dict[str, Path]:
    """Write the held most frequent codes of each stem as float wav, which cannot clip."""
    rate, encoding = analysis.codec.sample_rate, Encoding("wav", "32f")
    return {
        name: write_audio(folder / f"{name}.wav", frequent.audio.float().numpy(), rate, encoding)
        for name, frequent in analysis.frequent.items()
    }


def _page(analysis: CodecAnalysis, plots: dict[str, Path], sounds: dict[str, Path]) -> str:
    """The page as a single file, with images and sounds inside."""
    codec, options = analysis.codec, analysis.options
    channels = {1: "mono", 2: "stereo"}.get(codec.n_channels, f"{codec.n_channels} channels")
    facts = {
        "codec": codec.codec_id,
        "sound": f"{codec.sample_rate / 1000:g} kHz, {channels}",
        "frames": f"{codec.frame_rate:.4g} per second, {codec.hop_length} samples each",
        "codebooks": f"{codec.n_codebooks} of {codec.codebook_size} codes",
        "bit rate": f"{codec.bandwidth_kbps(codec.n_codebooks):.4g} kbit/s per coded channel",
        "latents": f"{codec.latent_dim} dimensions",
    }
    return rendered(
        "mssgen.analysis",
        "page.html",
        extra="analysis",
        codec=codec,
        facts=facts,
        ceilings=_ceilings(analysis),
        frequent=_frequent(analysis, sounds),
        plots={name: _data_uri("image/png", path) for name, path in plots.items()},
        captions=_CAPTIONS,
        n_failed=analysis.done.n_failed,
        is_relative=any(frequent.is_relative for frequent in analysis.frequent.values()),
        length=f"the first {options.max_s:g} s of each file" if options.max_s else "whole files",
        seed=options.seed,
        version=__version__,
    )


def _ceilings(analysis: CodecAnalysis) -> list[list[str]]:
    """Rows of the table of SDR ceilings."""
    rows = []
    for stem in analysis.stems:
        values = stem.sdr_db(analysis.codec.n_codebooks)
        rows.append(
            [
                stem.stem,
                str(len(stem.files)),
                str(len(stem.silent)),
                f"{sum(file.duration_s for file in stem.files) / 60:.1f}",
                *(_decibels(average(values)) if values else "–" for average in _AVERAGES),
            ]
        )
    return rows


def _frequent(analysis: CodecAnalysis, sounds: dict[str, Path]) -> list[list[str]]:
    """Rows of the table of the most frequent codes; the last cell is the address of a sound."""
    rows = []
    for stem in analysis.heard:
        frequent = analysis.frequent[stem.stem]
        rows.append(
            [
                stem.stem,
                _decibels(statistics.fmean(file.level_db for file in stem.files)),
                _decibels(frequent.level_db[analysis.codec.n_codebooks]),
                f"{sum(frequent.is_silence)} of {len(frequent.is_silence)}",
                _data_uri("audio/wav", sounds[stem.stem]),
            ]
        )
    return rows


def _decibels(value: float) -> str:
    """One decimal, with a typographic minus sign."""
    return f"{value:.1f}".replace("-", "−")


def _data_uri(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
