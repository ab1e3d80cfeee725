"""Does enhancing stems make them better? The benchmark that decides.

    python tests/benchmarks/enhance --codec CODEC --encoder bass=FOLDER --encoder drums=FOLDER \\
        --songs Tracks/test --songs OTHER [--separated Pairs/] [--max-seconds 30] --output DIR

Rows for every stem: the stem as htdemucs separates it; that through the codec unchanged; the clean
stem through the codec, the ceiling; and the separated stem through each encoder (with --refiner
once more through that), blended in each mode. Writes results.md, a table for each set of songs and
stem with the goals that are met and missed, and results.json. Run it again after an interruption,
or with one encoder more: what is measured is kept in DIR. CDPAM takes two seconds of a core for
each second that it hears.
"""

import argparse
import json
import os
from pathlib import Path


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--codec", required=True, help="a name or folder")
    add("--encoder", action="append", default=[], metavar="STEM=CHECKPOINT", help="repeatable")
    add("--refiner", action="append", default=[], metavar="STEM=FOLDER", help="repeatable")
    add("--songs", action="append", required=True, type=Path, help="folder of tracks; repeatable")
    add("--separated", action="append", default=[], type=Path, help="of whole songs; repeatable")
    add("--stems", nargs="+", default=["bass", "drums"])
    add("--max-seconds", type=float, help="the middle of each song only")
    add("--blend", nargs="+", default=["full", "fill", "auto"], help="modes; raw: none at all")
    add(
        "--alone", action="store_true", help="rows without the song, as `enhance` without --mixture"
    )
    add(
        "--cdpam-seconds",
        type=int,
        default=120,
        help="that CDPAM hears of a stem in each set of songs; 0 leaves it out",
    )
    add("--threads", type=int, default=1)
    add("--keep-audio", action="store_true", help="write the rows' sounds to DIR/audio")
    add("--overwrite", action="store_true", help="measure again what is kept")
    add("--output", required=True, type=Path)
    arguments = parser.parse_args()
    try:
        encoders = named_encoders(arguments.encoder, arguments.stems)
        refiners = dict(map(of_stem, arguments.refiner))
        names = names_of(arguments.songs)
    except ValueError as error:
        parser.error(str(error))
    # Numerical libraries read these when they load.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    run(arguments, encoders, refiners, names)


def run(
    arguments: argparse.Namespace,
    encoders: dict[str, dict[str, str]],
    refiners: dict[str, str],
    names: list[str],
) -> None:
    """Measure what is not known yet, and write the tables."""
    import torch
    from rows import Bench, Measured
    from songs import SongSet
    from tables import Table

    from mssgen.codecs.loading import load_codec
    from mssgen.evaluation.commits import commit_of
    from mssgen.evaluation.metrics.signals import is_silent
    from mssgen.evaluation.records import versions
    from mssgen.files import write_text

    torch.set_num_threads(arguments.threads)
    output = arguments.output
    codec = load_codec(arguments.codec)
    bench = Bench(
        codec,
        encoders,
        refiners=refiners,
        modes=arguments.blend,
        is_alone=arguments.alone,
        cache=output / "rows",
        audio=output / "audio" if arguments.keep_audio else None,
        overwrite=arguments.overwrite,
    )
    tables, notes = [], []
    for name, folder in zip(names, arguments.songs, strict=True):
        songs = SongSet(
            name,
            folder,
            max_seconds=arguments.max_seconds,
            cache=output / "separated",
            separated=arguments.separated,
        )
        found: dict[str, list[Measured]] = {stem: [] for stem in arguments.stems}
        for excerpt in songs.excerpts(arguments.stems):
            place = f"{name}/{excerpt.track}/{excerpt.stem}"
            if is_silent(excerpt.clean) or is_silent(excerpt.separated):
                whose = "clean" if is_silent(excerpt.clean) else "separated"
                notes.append(f"{place} is left out: the {whose} stem is silent")
                continue
            n_seconds = -(-arguments.cdpam_seconds // songs.n_songs(excerpt.stem))
            for row in bench.measure(excerpt, n_seconds):
                found[excerpt.stem].append(row)
                words = [f"{metric} {row.values[metric]:.2f}" for metric in row.known(SHOWN)]
                print(f"{place}: {row.row}: {', '.join(words)}", flush=True)
        tables += [Table(name, stem, rows) for stem, rows in found.items() if rows]
    parts = [f"Codec: {codec.codec_id}.", *(table.markdown() for table in tables)]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    text = "\n\n".join(parts)
    facts = {
        "format_version": 1,
        "codec": codec.codec_id,
        "encoders": encoders,
        "refiners": refiners,
        "embeddings": {name: each.source for name, each in bench.embeddings.items()},
        "max_seconds": arguments.max_seconds,
        "cdpam_seconds": arguments.cdpam_seconds,
        "threads": arguments.threads,
        "versions": versions(),
        "commit": commit_of(Path(__file__).parent),
        "tables": [table.facts() for table in tables],
        "notes": notes,
    }
    write_text(output / "results.md", text + "\n")
    write_text(output / "results.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{text}")


SHOWN = ("si_sdr", "mr_stft", "rolloff98_octaves", "onset_f1", "excess")


def of_stem(words: str) -> tuple[str, str]:
    """STEM=PATH in two."""
    stem, equals, path = words.partition("=")
    if not equals or not path:
        raise ValueError(f"{words}: write STEM=PATH")
    return stem, path


def named_encoders(given: list[str], stems: list[str]) -> dict[str, dict[str, str]]:
    """Checkpoints by stem and name: that of the folder, or the path where two are called alike."""
    found: dict[str, dict[str, str]] = {}
    for stem, path in map(of_stem, given):
        if stem not in stems:
            raise ValueError(f"--encoder {stem}={path}: {stem} is none of --stems")
        named = found.setdefault(stem, {})
        name = Path(path).name
        named[path if name in named else name] = path
    return found


def names_of(folders: list[Path]) -> list[str]:
    """What to call sets of songs."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError("two folders of --songs have the same name; rename one, or link to it")
    return names


if __name__ == "__main__":
    main()
