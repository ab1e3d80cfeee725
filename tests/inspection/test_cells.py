"""Names in tables neither compute nor end their cell."""

import csv
import io

import pytest

from mssgen.inspection.cells import csv_text, md_text


@pytest.mark.parametrize(
    "name",
    [
        '=HYPERLINK("http://x/?"&A1)',
        "+1+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(1)",
        " =1+1",
        "\t=1",
        "\n=1",
        "+x",
        "-",
        "--5",
    ],
)
def test_a_spreadsheet_computes_no_name(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"name": name, "value": 1.5}])))
    assert row == {"name": f"'{name}", "value": "1.5"}


@pytest.mark.parametrize("value", ["-1.25", "+3", "1e-3", "-.5", "-inf", -2.5, 0, None, "x = y"])
def test_numbers_and_plain_names_stay(value: object) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"value": value}, {"value": 1}][:1])))
    assert row["value"] == ("" if value is None else str(value))


def test_no_rows() -> None:
    assert csv_text([]) == ""


def test_markdown_takes_names_as_text() -> None:
    assert md_text("a | b\n<img src=x onerror=y>") == "a \\| b &lt;img src=x onerror=y>"
    assert md_text("R&B") == "R&B"
