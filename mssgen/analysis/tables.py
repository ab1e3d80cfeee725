"""CSV tables of an analysis."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from mssgen.analysis.codec import CodecAnalysis
from mssgen.analysis.statistics import dead_share, perplexity
from mssgen.inspection.cells import csv_text

Row = dict[str, str | int]


def write_tables(analysis: CodecAnalysis, folder: Path) -> None:
    """Write usage.csv, codes.csv, sdr.csv and files.csv; raises OSError."""
    tables = {
        "usage.csv": _usage(analysis),
        "codes.csv": _codes(analysis),
        "sdr.csv": _sdr(analysis),
        "files.csv": _files(analysis),
    }
    for name, table in tables.items():
        # File names need not be valid text.
        data = csv_text(list(table)).encode("utf-8", "backslashreplace")
        (folder / name).write_bytes(data)


def _usage(analysis: CodecAnalysis) -> Iterator[Row]:
    """A row for each stem and codebook."""
    for stem in analysis.heard:
        frequent, n_frames = analysis.frequent[stem.stem], stem.n_frames
        evenness, dead = perplexity(stem.counts).tolist(), dead_share(stem.counts).tolist()
        for index, counts in enumerate(stem.counts):
            code = int(frequent.codes[index])
            yield {
                "stem": stem.stem,
                "codebook": index + 1,
                "n_frames": n_frames,
                "perplexity": f"{evenness[index]:.3f}",
                "n_used_codes": int((counts > 0).sum()),
                "dead_share": f"{dead[index]:.4f}",
                "top_code": code,
                "top_share": f"{int(counts[code]) / n_frames:.6f}",
                "top_is_silence": int(frequent.is_silence[index]),
                "codes": what_is_coded(analysis, index + 1),
            }


def what_is_coded(analysis: CodecAnalysis, n_codebooks: int) -> str:
    """What the first `n_codebooks` codebooks represent."""
    is_level = n_codebooks <= analysis.codec.n_level_codebooks
    return "band energies only" if is_level else "waveform"


def _codes(analysis: CodecAnalysis) -> Iterator[Row]:
    """Histograms: a row for each used code, the most frequent first."""
    for stem in analysis.heard:
        for index, counts in enumerate(stem.counts):
            order = counts.argsort(descending=True, stable=True).tolist()
            for rank, code in enumerate(order[: int((counts > 0).sum())], 1):
                yield {
                    "stem": stem.stem,
                    "codebook": index + 1,
                    "rank": rank,
                    "code": code,
                    "count": int(counts[code]),
                    "share": f"{int(counts[code]) / stem.n_frames:.6f}",
                }


def _sdr(analysis: CodecAnalysis) -> Iterator[Row]:
    """A row for each stem and number of codebooks; silent stems have no SDR."""
    for stem in analysis.stems:
        frequent = analysis.frequent.get(stem.stem)
        for n_codebooks in analysis.n_codebooks:
            values = stem.sdr_db(n_codebooks)
            yield {
                "stem": stem.stem,
                "n_codebooks": n_codebooks,
                "kbps": f"{analysis.codec.bandwidth_kbps(n_codebooks):.3f}",
                "n_files": len(values),
                "n_silent_files": len(stem.silent),
                "mean_sdr_db": f"{statistics.fmean(values):.3f}" if values else "",
                "median_sdr_db": f"{statistics.median(values):.3f}" if values else "",
                "held_level_db": f"{frequent.level_db[n_codebooks]:.2f}" if frequent else "",
                "codes": what_is_coded(analysis, n_codebooks),
            }


def _files(analysis: CodecAnalysis) -> Iterator[Row]:
    """A row for each file that is not silent and number of codebooks."""
    for stem in analysis.heard:
        for file in stem.files:
            for n_codebooks, sdr_db in file.sdr_db.items():
                yield {
                    "stem": stem.stem,
                    "file": file.track,
                    "duration_s": f"{file.duration_s:.3f}",
                    "level_db": f"{file.level_db:.2f}",
                    "n_codebooks": n_codebooks,
                    "sdr_db": f"{sdr_db:.3f}",
                }
