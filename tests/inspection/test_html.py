"""Templates: what is filled in is text, whatever it is."""

import json
import re
import sys

import pytest

from mssgen.errors import UsageError
from mssgen.inspection.html import in_script, rendered

EVIL = "</script><script>alert(1)</script>&\"'<!--"


def test_values_are_escaped_and_files_are_not() -> None:
    page = rendered(
        "mssgen.evaluation.listening", "page.html", extra="evaluate", test={"title": EVIL}
    )
    assert page.count("<script>") == 1
    assert EVIL not in page
    assert "addEventListener(name.slice(2), value)" in page  # page.js, as it is
    data = re.search(r'id="test">(.*?)</script>', page)
    assert data is not None
    assert json.loads(data[1]) == {"title": EVIL}


def test_json_in_a_script_has_no_markup() -> None:
    text = in_script({EVIL: [1.5, None]}, extra="evaluate")
    assert not set("<>&'") & set(text)
    assert json.loads(text) == {EVIL: [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        in_script(float("nan"), extra="evaluate")


def test_without_jinja_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"jinja2 is not installed.*'\.\[analysis\]'"):
        rendered("mssgen.analysis", "page.html", extra="analysis")
