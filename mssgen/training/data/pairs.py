"""Separated stems as files: the input of enhancers in training.

PAIRS/TRACK/STEM.wav is outside of the library. The files are 32-bit float: a separated stem may
exceed full scale, which 24-bit flac could only clip or attenuate, changing its level relative to
the target; and wav allows fast random access. Stereo takes 21 MB per minute, about twice as much as
flac.

PAIRS/pairs.json states the model and the tracks that they were made from.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mssgen import __version__
from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import StemWriter
from mssgen.checkpoints.formats import WEIGHTS
from mssgen.checkpoints.resolving import resolve
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Done, Event, Failed, Hook, ignore
from mssgen.files import is_there, reported, safe_target, sha256_of, whole_file
from mssgen.inputs.names import as_on_disk, composed
from mssgen.inputs.tracks import Track
from mssgen.jobs.batch import WriteOptions, separate_files
from mssgen.leftovers import holds_nothing, scratch_folder
from mssgen.library.excerpts import Excerpt, excerpts
from mssgen.library.stems import (
    MIXTURE,
    PAIRS_MANIFEST,
    Library,
    SoundFile,
    StemFile,
    TrackStems,
    read_sum,
)
from mssgen.outputs import OutputPlan, plan_outputs
from mssgen.pipeline import load_separator
from mssgen.separators.base import Separator

FORMAT_VERSION = 1
_ENCODING = Encoding("wav", "32f")
_TEMPLATE = "{track}/{stem}.{ext}"
_BLOCK_SAMPLES = 2**20


def make_pairs(
    library: Library,
    output: Path,
    *,
    model: str = "htdemucs",
    stems: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    offline: bool = False,
    excerpt_s: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    hook: Hook = ignore,
) -> Done:
    """Separate the mixture of every track of a library into `output`.

    Existing stems are kept unless their track has changed or `overwrite` is set, so an interrupted
    run continues where it stopped.

    Args:
        library: see `open_library`.
        output: the folder to write to; must not hold pairs of another model.
        model, device, precision, offline, progress: see `load_separator`.
        stems: stems to write; empty: all stems of the model.
        excerpt_s: length of the excerpt of each track, seconds, see `excerpts`; None: all.
        overwrite: separate everything again.
        hook: receives events; tracks are named by their keys. Failures of single tracks are
            reported here and counted.

    Raises:
        UsageError: a wrong stem or model, or `output` holds pairs of another model.
        CheckpointError: the model cannot be loaded.
    """
    started = time.monotonic()
    resolved = resolve(model, offline=offline, progress=progress, wanted_stems=stems or None)
    if excerpt_s is not None:
        library = excerpts(library, excerpt_s)
    files = [path / WEIGHTS if path.is_dir() else path for path in resolved.paths]
    hashes = [sha256_of(file) for file in files]
    manifest = begin(output, resolved.name, hashes, excerpt_s, overwrite=overwrite)
    separator = load_separator(
        model,
        stems=stems or None,
        device=device,
        precision=precision,
        offline=offline,
        progress=progress,
    )
    # The stem "other" is the sum of all stems that the model does not name.
    manifest["stems"] = list(resolved.bundle.stems if resolved.bundle else separator.sources)
    plan = plan_outputs(separator.sources, stems=stems)
    options = WriteOptions(
        template=_TEMPLATE,
        container=_ENCODING.container,
        bit_depth=_ENCODING.bit_depth,
        clip="none",
        existing="overwrite" if overwrite else "skip",
        has_manifest=False,  # replaced by pairs.json
    )
    n_done = n_skipped = n_failed = 0
    for track in library.tracks:
        try:
            remember(manifest, output, track)
            done = _separate(track, separator, plan, output, options, hook)
            n_done += done.n_done
            n_skipped += done.n_skipped
            n_failed += done.n_failed
        except MssgenError as error:
            n_failed += 1
            hook(Failed(track.key, str(error)))
    done = Done(n_done, n_skipped, n_failed, time.monotonic() - started)
    hook(done)
    return done


def paired(library: Library, folder: Path) -> Library:
    """The part of `library` that the pairs in `folder` cover: all, or an excerpt of each track.

    Its stem "other" is the sum of all stems that the separation model does not name.
    """
    manifest = _read(folder) or {}
    if stems := manifest.get("stems"):
        library = library.naming(stems)
    excerpt_s = manifest.get("excerpt_s")
    return excerpts(library, excerpt_s) if excerpt_s else library


def open_pairs(folder: Path, tracks: Sequence[TrackStems], stem: str) -> dict[str, StemFile]:
    """The separated `stem` of every track, by the track's key.

    Raises UsageError if one is missing, or was made from other files than the track's.
    """
    manifest = _read(folder)
    if manifest is None:
        raise UsageError(
            f"{folder} holds no {PAIRS_MANIFEST}; make separated stems with `mssgen data pairs`"
        )
    known = {composed(key): fingerprint for key, fingerprint in manifest["tracks"].items()}
    found: dict[str, StemFile] = {}
    for track in tracks:
        path = as_on_disk(target_of(folder, track.key, stem))
        key = composed(track.key)
        if known.get(key) not in (None, track.fingerprint):
            raise UsageError(
                f"{folder} was made from another library: its {track.key} differs; run "
                "`mssgen data pairs` again"
            )
        if key not in known or not is_there(path):
            raise UsageError(
                f"{folder} has no separated {stem} of {track.key}; run `mssgen data pairs` again, "
                f"with `stems={stem}`"
            )
        found[track.key] = SoundFile(path)
    return found


def _separate(
    track: TrackStems,
    separator: Separator,
    plan: OutputPlan,
    output: Path,
    options: WriteOptions,
    hook: Hook,
) -> Done:
    def told(event: Event) -> None:
        if not isinstance(event, Done):  # of this track only
            hook(replace(event, track=track.key))

    targets = [target_of(output, track.key, stem) for stem in plan.names]
    is_complete = options.existing == "skip" and all(map(is_there, targets))
    # A complete track needs no mixture; the path is not read.
    with _mixture(track, needed=not is_complete) as path:
        song = Track(str(path), track.key)
        return separate_files(
            [song], separator, plan, output_dir=output, options=options, hook=told
        )


@contextmanager
def _mixture(track: TrackStems, *, needed: bool) -> Iterator[Path]:
    """The mixture as a file; the sum of the stems becomes a temporary one."""
    is_whole = track.mixture is not None and not isinstance(track.mixture, Excerpt)
    if is_whole or not needed:
        yield track.recordings(MIXTURE)[0].path
        return
    rate, n_samples = track.sample_rate, track.n_samples(track.sample_rate)
    with scratch_folder() as folder:
        yield write_whole(folder / "mixture.wav", track.recordings(MIXTURE), rate, n_samples)


def write_whole(path: Path, files: Sequence[StemFile], sample_rate: int, n_samples: int) -> Path:
    """Write the sum of recordings as one stereo file, and return its path."""
    writer = StemWriter(
        path,
        sample_rate=sample_rate,
        n_channels=2,
        n_samples=n_samples,
        encoding=_ENCODING,
        clip="none",
    )
    with writer:
        for start in range(0, n_samples, _BLOCK_SAMPLES):
            length = min(_BLOCK_SAMPLES, n_samples - start)
            writer.write(read_sum(files, start, length, sample_rate=sample_rate, n_channels=2))
        return writer.finish()


def begin(
    output: Path, model: str, hashes: list[str], excerpt_s: int | None, *, overwrite: bool
) -> dict[str, Any]:
    """The manifest of `output`, new or existing; raises UsageError if it is of another model.

    Args:
        output: folder of the pairs.
        model: name of the model for messages.
        hashes: what identifies it, by default the sha256 of each of its files.
        excerpt_s: see `make_pairs`.
        overwrite: whether pairs of another model are replaced.
    """
    manifest = _read(output)
    if manifest is None and output.exists() and (not output.is_dir() or not holds_nothing(output)):
        # Stale stems are deleted, so nothing else may be in the folder.
        raise UsageError(f"{output} holds other files than pairs; choose another `output`")
    is_same = manifest is not None and manifest.get("sha256") == hashes
    if manifest is not None and not is_same and not overwrite:
        raise UsageError(
            f"{output} holds stems separated by {manifest.get('model')}, not {model}; "
            "choose another `output`"
        )
    if is_same and manifest is not None and manifest.get("excerpt_s") != excerpt_s:
        if not overwrite:
            raise UsageError(
                f"{output} holds pairs of another `excerpt_s` than {excerpt_s or 'none'}; use the "
                "same, or choose another `output`"
            )
        is_same = False
    return {
        "format_version": FORMAT_VERSION,
        "mssgen_version": __version__,
        "model": model,
        "sha256": hashes,
        "excerpt_s": excerpt_s,
        "tracks": manifest["tracks"] if manifest is not None and is_same else {},
    }


def remember(manifest: dict[str, Any], output: Path, track: TrackStems) -> None:
    """Record the track's fingerprint before it is separated, and delete stems of an earlier one."""
    if manifest["tracks"].get(track.key) == track.fingerprint:
        return
    manifest["tracks"][track.key] = track.fingerprint
    with reported(output, UsageError):
        # Stems of an earlier state of the track would count as complete.
        for path in target_of(output, track.key, MIXTURE).parent.glob("*.wav"):
            path.unlink()
        with whole_file(output / PAIRS_MANIFEST) as draft:
            draft.write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _read(folder: Path) -> dict[str, Any] | None:
    """The manifest; None if there is none."""
    path = folder / PAIRS_MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); make the pairs again in another folder"
        ) from error
    is_ours = isinstance(manifest, dict) and manifest.get("format_version") == FORMAT_VERSION
    if not is_ours or not isinstance(manifest.get("tracks"), dict):
        raise UsageError(
            f"{path} is of another version of mssgen; run `mssgen data pairs` into another folder"
        )
    return manifest


def target_of(output: Path, key: str, stem: str) -> Path:
    return safe_target(output, _TEMPLATE, track=key, stem=stem, ext=_ENCODING.extension)
