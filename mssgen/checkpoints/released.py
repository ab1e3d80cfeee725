"""Rows of the registry for separators that others released, from the table `separators.tsv`.

Facts as published: by the authors, by the checksum lists of the packages `splifft` 0.0.9,
`bs-roformer-infer` and `melband-roformer-infer` 0.1.5, and by the repositories that convert the
files. Nobody's weights ship with mssgen, and no file is used whose sha256 differs.
"""

import csv
import json
from pathlib import Path

from mssgen.checkpoints.bundles import Bundle, RemoteFile

_TABLE = Path(__file__).with_name("separators.tsv")
_NO_LICENCE = (
    "none stated",
    "No licence was published with these weights, and that of the code does not cover them. Ask "
    "their author before you use more than your own copy.",
)


def released_separators() -> list[Bundle]:
    """One bundle per row of the table, each with a single file."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return [_bundle(row) for row in csv.DictReader(file, dialect=csv.excel_tab)]


def _bundle(row: dict[str, str]) -> Bundle:
    stated = (row["licence"], f"{row['licence']} is what their author states.")
    licence, licence_note = stated if row["licence"] else _NO_LICENCE
    on_hub = not row["place"].startswith("https:")
    options = {"sources": row["stems"].split(","), **json.loads(row["options"])}
    repo, _, revision = row["place"].partition("@") if on_hub else ("", "", "")
    return Bundle(
        name=row["name"],
        stage="separate",
        architecture=row["architecture"],
        repo=repo,
        revision=revision or None,
        files=(RemoteFile(row["file"], row["sha256"], int(row["bytes"])),),
        stems=tuple(options["sources"]),
        sample_rate=44_100,
        licence=licence,
        licence_note=licence_note,
        note=row["note"]
        + ("" if revision or not on_hub else " The download follows the default revision."),
        options=options,
        origin=row["origin"],
        sdr=row["sdr"] or None,
        page=None if on_hub else f"{row['place']}/{row['file']}",
    )
