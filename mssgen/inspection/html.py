"""HTML pages from Jinja2 templates. All values are escaped: names are chosen by users."""

from importlib.resources import files
from typing import Any

from mssgen.extras import require


def rendered(package: str, template: str, *, extra: str, **values: Any) -> str:
    """Fill in a template that lies in `package`.

    Inside the template, `{{ asset("page.css") }}` inserts a file beside it unescaped, and
    `{{ in_script(value) }}` inserts JSON into a script element.

    Args:
        package: name of the package, such as "mssgen.analysis".
        template: file name of the template.
        extra: the extra of mssgen that installs Jinja2 for the caller.
        values: variables of the template.

    Raises UsageError if Jinja2 is not installed.
    """
    require("jinja2", extra, "the page")
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = {
        "asset": lambda name: Markup((files(package) / name).read_text(encoding="utf-8")),
        "in_script": lambda value: in_script(value, extra=extra),
    }
    return environment.get_template(template).render(**functions, **values)


def in_script(value: Any, *, extra: str) -> str:
    """JSON that cannot end a script element: without "<", ">", "&", "'" and NaN."""
    require("jinja2", extra, "the page")
    from jinja2.utils import htmlsafe_json_dumps

    return htmlsafe_json_dumps(value, separators=(",", ":"), allow_nan=False)
