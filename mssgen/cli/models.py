"""`mssgen models`: which models exist, where they are, and whether their files are intact.

Only `quantize` imports torch, and only `pull` uses the network. `convert` has a file
of its own, `export` and `push` are in `publish`.
"""

import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mssgen.checkpoints.bundles import Bundle
from mssgen.checkpoints.registry import REGISTRY, lookup
from mssgen.cli import options as given
from mssgen.cli.convert import convert
from mssgen.cli.groups import App
from mssgen.cli.publish import export, push
from mssgen.cli.tables import print_json, print_table
from mssgen.errors import CheckpointError, MssgenError, UsageError

app = App(help="List, inspect, download, verify, convert and publish models.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `mssgen models list`.")]


@app.command("list")
def list_models(as_json: given.Json = False) -> None:
    """List models: stage, stems, size, published SDR, location and licence."""
    rows: list[dict[str, Any]] = [
        {
            "name": bundle.name,
            "stage": bundle.stage,
            "stems": list(bundle.stems),
            "size_bytes": _size_bytes(bundle),
            "sdr": bundle.sdr,
            "licence": bundle.licence,
            "where": _where(bundle),
            "verified": bundle.is_verified,
        }
        for bundle in REGISTRY.values()
    ]
    if as_json:
        return print_json(rows)
    print_table(
        ("name", "stage", "stems", "size", "where", "licence", "SDR"),
        [
            (
                row["name"],
                row["stage"],
                " ".join(row["stems"]) if len(row["stems"]) < 10 else f"{len(row['stems'])} stems",
                _megabytes(row["size_bytes"]),
                row["where"] if row["verified"] else f"{row['where']}, unverified",
                row["licence"],
                (row["sdr"] or "").split(" (")[0],
            )
            for row in rows
        ],
    )


@app.command()
def info(name: Name, as_json: given.Json = False) -> None:
    """Show a model's files, hashes and licence.

    Prints every known statement about the licence, even where they contradict each other.
    """
    bundle = lookup(name)
    facts: dict[str, Any] = {
        "name": bundle.name,
        "stage": bundle.stage,
        "architecture": bundle.architecture,
        "stems": list(bundle.stems),
        "sample_rate": bundle.sample_rate,
        "where": _where(bundle),
        "origin": bundle.origin,
        "sdr": bundle.sdr,
        "page": bundle.page,
        "repo": bundle.repo or None,
        "revision": bundle.revision,
        "files": [
            {
                "name": file.name,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "stems": list(bundle.member_stems[i] if bundle.member_stems else bundle.stems),
            }
            for i, file in enumerate(bundle.files)
        ],
        "licence": bundle.licence,
        "licence_note": bundle.licence_note,
        "quality_note": bundle.quality_note,
        "note": bundle.note,
        "embedded": _embedded_facts(bundle),
    }
    if as_json:
        return print_json(facts)
    lines = []
    for key, value in facts.items():
        if key == "files":
            for file in value:
                digest = file["sha256"] or "unknown: downloads are not checked (unverified)"
                size = _megabytes(file["size_bytes"])
                about = "; ".join([size, *([" ".join(file["stems"])] if file["stems"] else [])])
                lines.append(("file", f"{file['name']} ({about}), sha256 {digest}"))
        elif key == "embedded":
            if value:
                lines.append((key, f"{value['path']}, sha256 {value['sha256']}"))
        elif key == "revision" and bundle.repo:
            lines.append((key, value or "not pinned (unverified): the default branch"))
        elif value not in (None, []):
            text = " ".join(value) if isinstance(value, list) else str(value)
            lines.append((key, f"{text} Hz" if key == "sample_rate" else text))
    print_table((), [(key.replace("_", " "), text) for key, text in lines])


@app.command()
def pull(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Names from `mssgen models list`, or hf://OWNER/NAME."),
    ],
    original: Annotated[
        bool,
        typer.Option(
            "--original", help="Also download the published files of models that come with mssgen."
        ),
    ] = False,
    as_json: given.Json = False,
) -> None:
    """Download models for offline use."""
    from mssgen.checkpoints.resolving import SCHEME, embedded_checkpoint, parse_address, resolve

    bundles: dict[str, Bundle | None] = {}
    for name in names:  # check all of them before any download
        is_address = name.startswith(SCHEME)
        bundles[name] = None if is_address else lookup(name)
        if is_address:
            parse_address(name)

    from mssgen.checkpoints import hub

    progress = sys.stderr.isatty() and not as_json
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for name, bundle in bundles.items():
        result: dict[str, Any] = {"name": name, "status": "ready", "paths": []}
        results.append(result)
        folder = embedded_checkpoint(name) if bundle else None
        if folder is not None and not (original and bundle and bundle.repo):
            result |= {"status": "comes with mssgen", "paths": [str(folder)]}
            continue
        try:
            if bundle is None:
                result["paths"] = _pull_address(name, progress=progress)
            else:
                files = (
                    resolve(name, progress=progress).paths
                    if not bundle.repo
                    else [hub.fetch(bundle, file, progress=progress) for file in bundle.files]
                )
                result["paths"] = [str(file) for file in files]
                if not bundle.is_verified:
                    result["status"] = "ready, unverified"
        except MssgenError as error:
            result |= {"status": "failed", "error": str(error)}
            failures.append(str(error))
    if as_json:
        print_json(results)
    else:
        for result in results:
            for path in result["paths"]:
                typer.echo(f"{result['name']}: {result['status']}: {path}")
    if failures:
        raise CheckpointError("; ".join(failures))


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names of models.", show_default="all on this machine"),
    ] = None,
    as_json: given.Json = False,
) -> None:
    """Verify the hashes of local files.

    Looks at embedded and cached files only, and never uses the network.
    """
    bundles = [lookup(name) for name in names] if names else list(REGISTRY.values())
    results = [result for bundle in bundles for result in _verify(bundle, bool(names))]
    if as_json:
        print_json(results)
    else:
        print_table(
            ("name", "status", "file"),
            [(row["name"], row["status"], row["path"] or row["file"]) for row in results],
        )
    if bad := [row for row in results if row["status"] in ("damaged", "missing")]:
        cures = {
            "embedded": "reinstall mssgen",
            "cached": f"run `mssgen models pull {bad[0]['name']}`",
        }
        raise CheckpointError(
            f"{len(bad)} of {len(results)} files are not intact, first {bad[0]['name']}/"
            f"{bad[0]['file']} ({bad[0]['status']}): {cures[bad[0]['where']]}"
        )


@app.command()
def path(name: Name, as_json: given.Json = False) -> None:
    """Print the paths of a model's files, one per line.

    Fails if the model is not on this machine.
    """
    from mssgen.checkpoints.resolving import resolve

    resolved = resolve(name, offline=True)
    paths = [str(path) for path in resolved.paths]
    if as_json:
        return print_json({"name": resolved.name, "where": resolved.where, "paths": paths})
    for line in paths:
        typer.echo(line)


@app.command()
def quantize(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name or path of a checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write to.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Model whose licence and signature to record."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="A config.json, for a source that comes without one.",
            metavar="FILE",
        ),
    ] = None,
    overwrite: given.Overwrite = False,
    as_json: given.Json = False,
) -> None:
    """Convert a checkpoint's weights to int8.

    Writes a folder with config.json and model.safetensors: int8 weights with one fp16 scale per
    output channel. The same source always gives the same bytes.
    """
    from mssgen.checkpoints.resolving import resolve
    from mssgen.checkpoints.shrinking import quantize_checkpoint

    bundle = lookup(model) if model else None
    resolved = resolve(source, stage="separate")
    if resolved.where == "embedded":
        raise UsageError(
            f"{source} already comes as int8: download the published file with `mssgen models pull "
            f"--original {source}`, and give its path here"
        )
    if len(resolved.paths) != 1:
        raise UsageError(f"{source} has {len(resolved.paths)} files: give the path of one of them")
    noise = quantize_checkpoint(
        resolved.paths[0],
        target,
        bundle=bundle or resolved.bundle,
        config=config,
        overwrite=overwrite,
    )
    summary = {
        "target": str(target),
        "size_bytes": sum(file.stat().st_size for file in target.iterdir()),
        "n_int8_tensors": len(noise),
        "snr_db_lowest": round(min(noise.values()), 2) if noise else None,
        "snr_db_median": round(statistics.median(noise.values()), 2) if noise else None,
    }
    if as_json:
        return print_json(summary)
    print_table((), [(key.replace("_", " "), str(value)) for key, value in summary.items()])
    lowest = sorted(noise, key=noise.__getitem__)[:5]
    print_table(("tensor", "SNR (dB)"), [(key, f"{noise[key]:.2f}") for key in lowest])


def _pull_address(address: str, *, progress: bool) -> list[str]:
    """Paths of the folder in the hub's cache, and of the files of a stem encoder's codec."""
    from mssgen.checkpoints.formats import CONFIG, read_json
    from mssgen.checkpoints.resolving import resolve

    folder = resolve(address, progress=progress).paths[0]
    codec = read_json(folder / CONFIG).get("codec")
    named = [resolve(codec, progress=progress)] if codec in REGISTRY else []
    return [str(path) for path in (folder, *(path for found in named for path in found.paths))]


app.command()(convert)
app.command()(export)
app.command()(push)


def _where(bundle: Bundle) -> str:
    """Location: "embedded", "cached", "cached (2 of 4)", "on the hub" or "missing"."""
    from mssgen.checkpoints import hub
    from mssgen.checkpoints.resolving import embedded_checkpoint

    if embedded_checkpoint(bundle.name) is not None:
        return "embedded"
    if not bundle.repo:
        return "by hand" if bundle.page else "missing"
    n_cached = sum(hub.cached(bundle, file) is not None for file in bundle.files)
    if n_cached == len(bundle.files):
        return "cached"
    return f"cached ({n_cached} of {len(bundle.files)})" if n_cached else "on the hub"


def _embedded_facts(bundle: Bundle) -> dict[str, str] | None:
    """Path and recorded SHA-256 of the embedded copy, if there is one."""
    from mssgen.checkpoints.formats import CONFIG, read_config
    from mssgen.checkpoints.resolving import embedded_checkpoint

    folder = embedded_checkpoint(bundle.name)
    if folder is None:
        return None
    config = read_config(folder / CONFIG, bundle.stage)
    return {"path": str(folder), "sha256": str(config.get("sha256"))}


def _size_bytes(bundle: Bundle) -> int | None:
    """Size of the embedded copy, else of the published files."""
    from mssgen.checkpoints.resolving import embedded_checkpoint

    folder = embedded_checkpoint(bundle.name)
    if folder is None:
        return bundle.size_bytes
    return sum(file.stat().st_size for file in folder.iterdir())


def _verify(bundle: Bundle, is_asked: bool) -> list[dict[str, Any]]:
    """One row per local file; missing files count if the user asked for this model."""
    from mssgen.checkpoints import hub
    from mssgen.checkpoints.formats import WEIGHTS
    from mssgen.files import sha256_of

    rows: list[dict[str, Any]] = []

    def add(file: str, where: str, path: Path | None, expected: str | None) -> None:
        if path is None:
            status = "missing"
        elif expected is None:
            status = "no hash to compare with"
        else:
            status = "ok" if sha256_of(path) == expected else "damaged"
        rows.append(
            {
                "name": bundle.name,
                "file": file,
                "where": where,
                "status": status,
                "path": str(path) if path else None,
            }
        )

    embedded = _embedded_facts(bundle)
    if embedded:
        add(WEIGHTS, "embedded", Path(embedded["path"]) / WEIGHTS, embedded["sha256"])
    files = bundle.files if bundle.repo else ()
    cached = [hub.cached(bundle, file) for file in files]
    # An embedded model needs no cached files; any other model needs all of them.
    needs_cache = is_asked and not embedded
    for file, path in zip(files, cached, strict=True):
        if path is not None or needs_cache:
            add(file.name, "cached", path, file.sha256)
    return rows


def _megabytes(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 1e6:.0f} MB"
