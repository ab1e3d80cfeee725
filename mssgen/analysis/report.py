"""An analysis as files: tables, plots and sounds, and one HTML page that shows them."""

import base64
import shutil
import statistics
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from mssgen import __version__
from mssgen.analysis.codec import Analysis
from mssgen.analysis.plots import draw
from mssgen.analysis.tables import write_tables
from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import StemWriter
from mssgen.codecs.base import Codec
from mssgen.files import reported, whole_file
from mssgen.leftovers import scratch_folder

PAGE = "index.html"
_SOUNDS = "most_frequent"
_AVERAGES: tuple[Callable[[list[float]], float], ...] = (statistics.fmean, statistics.median)
_CAPTIONS = {
    "sdr": "What the codec alone costs: mean SDR of its reconstruction over the files, with the "
    "middle half of the files as a band; the right end is the ceiling of all that uses this codec.",
    "usage": "How often each code was used, for each codebook and stem; grey codes never were.",
    "perplexity": "Perplexity is the number of equally frequent codes that would say as much; "
    "short recordings leave more codes unused than the codec has dead ones.",
    "pca": "Quantised latents of random frames, turned to the two directions of most variance "
    "(its shares in per cent); frames in one place are one larger mark.",
    "mds": "The same frames laid out so that distances between them are kept as well as a plane "
    "can (metric multidimensional scaling).",
}
_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 46rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere } .table { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid #e2e2e2;
  white-space: nowrap }
th { font-weight: 600; white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0 }
dt { color: #666 } dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 1rem 0 1.6rem } img { width: 100%; height: auto }
audio { height: 2rem; width: 9rem }
figcaption, p { margin: .4rem 0 } figcaption, footer { color: #555; font-size: .9rem }
footer { margin-top: 2.5rem; border-top: 1px solid #e2e2e2; padding-top: .5rem }
"""


def write_report(analysis: Analysis, folder: Path) -> Path:
    """Write tables, plots, sounds and the page to `folder`, which is made; returns the page.

    Files that have the same names are replaced. Each appears complete or not at all, and the page
    last. Raises UsageError where the packages of the extra are missing, MssgenError where the
    folder cannot be written.
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


def _write_sounds(analysis: Analysis, folder: Path) -> dict[str, Path]:
    """The most frequent codes of each stem, held, as float wav: nothing clips."""
    paths = {}
    for name, frequent in analysis.frequent.items():
        audio = frequent.audio.float().numpy()
        writer = StemWriter(
            folder / f"{name}.wav",
            sample_rate=analysis.codec.sample_rate,
            n_channels=audio.shape[0],
            n_samples=audio.shape[1],
            encoding=Encoding("wav", "32f"),
            clip="none",
        )
        with writer:
            writer.write(audio)
            paths[name] = writer.finish()
    return paths


def _page(analysis: Analysis, plots: dict[str, Path], sounds: dict[str, Path]) -> str:
    """All of it in one file, so that it can be sent around."""
    codec, options = analysis.codec, analysis.options
    channels = {1: "mono", 2: "stereo"}.get(codec.n_channels, f"{codec.n_channels} channels")
    facts = {
        "codec": codec.codec_id,
        "sound": f"{codec.sample_rate / 1000:g} kHz, {channels}",
        "frames": f"{codec.frame_rate:.4g} a second, of {codec.hop_length} samples",
        "codebooks": f"{codec.n_codebooks} of {codec.codebook_size} codes",
        "bit rate": f"{codec.bandwidth_kbps(codec.n_codebooks):.4g} kbit/s a coded channel",
        "latents": f"{codec.latent_dim} dimensions",
    }
    listed = "\n".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    length = f"the first {options.max_s:g} s of each file" if options.max_s else "whole files"
    n_failed = analysis.done.n_failed
    failed = f" Files that could not be read: {n_failed}." if n_failed else ""
    is_relative = any(frequent.is_relative for frequent in analysis.frequent.values())
    relative = " This codec scales: 0 dB is the level of the music itself." if is_relative else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="mssgen codec analyze">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(codec.name)}: what the codec does with stems</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>What {escape(codec.name)} does with stems</h1>
<dl>
{listed}
</dl>
<h2>SDR ceiling</h2>
{_ceilings(analysis)}
<p>SDR of encoding with all {codec.n_codebooks} codebooks and decoding, over all channels of a file
at the codec's rate; no separation is involved. Silent files are counted and left out.{failed}
{_on_levels(codec)}</p>
{_figure("sdr", plots, "SDR against the number of codebooks")}
<h2>Which codes are used</h2>
{_figure("usage", plots, "Heat maps of code usage")}
{_figure("perplexity", plots, "Perplexity and share of unused codes for each codebook")}
<h2>The most frequent codes</h2>
{_frequent(analysis, sounds)}
<p>The most frequent code of every codebook, held for about a second and decoded. Where its level is
far below that of the music, what is most frequent is silence; the codes of silence are those that
digital silence has, too.{relative}</p>
<h2>Quantised latents</h2>
{_figure("pca", plots, "Principal components of quantised latents")}
{_figure("mds", plots, "Multidimensional scaling of quantised latents")}
<footer>mssgen {__version__}; {length}; random seed {options.seed}. Stereo files go through a mono
codec as middle and side; codes are counted in the middle, SDR takes in both. Tables: usage.csv,
codes.csv, sdr.csv, files.csv.</footer>
</body>
</html>
"""


def _on_levels(codec: Codec) -> str:
    """Why the first codebooks of some codecs have no SDR."""
    n_levels = codec.n_level_codebooks
    if not n_levels:
        return ""
    return (
        f"The first {n_levels} codebooks hold band energies only: from them alone decoding gives "
        "noise of these energies, whose SDR is about 0 dB; the waveform is in those that follow."
    )


def _ceilings(analysis: Analysis) -> str:
    rows = []
    for stem in analysis.stems:
        values = stem.sdr_db(analysis.codec.n_codebooks)
        rows.append(
            (
                stem.stem,
                str(len(stem.files)),
                str(len(stem.silent)),
                f"{sum(file.duration_s for file in stem.files) / 60:.1f}",
                *(_decibels(average(values)) if values else "–" for average in _AVERAGES),
            )
        )
    heading = ("stem", "files", "silent", "minutes", "mean SDR (dB)", "median SDR (dB)")
    return _table(heading, rows)


def _frequent(analysis: Analysis, sounds: dict[str, Path]) -> str:
    rows = []
    for stem in analysis.heard:
        frequent = analysis.frequent[stem.stem]
        sound = _data_uri("audio/wav", sounds[stem.stem])
        rows.append(
            (
                stem.stem,
                _decibels(statistics.fmean(file.level_db for file in stem.files)),
                _decibels(frequent.level_db[analysis.codec.n_codebooks]),
                f"{sum(frequent.is_silence)} of {len(frequent.is_silence)}",
                f'<audio controls preload="none" src="{sound}"></audio>',
            )
        )
    heading = ("stem", "music (dB)", "held codes (dB)", "codes of silence", "sound")
    return _table(heading, rows, raw_column=4)


def _table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], *, raw_column: int | None = None
) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "\n".join(
        "<tr>"
        + "".join(
            f"<td>{cell if index == raw_column else escape(cell)}</td>"
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="table"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _figure(name: str, plots: dict[str, Path], description: str) -> str:
    source = _data_uri("image/png", plots[name])
    return (
        f'<figure><img src="{source}" alt="{description}">'
        f"<figcaption>{_CAPTIONS[name]}</figcaption></figure>"
    )


def _decibels(value: float) -> str:
    """With a proper minus sign."""
    return f"{value:.1f}".replace("-", "−")


def _data_uri(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
