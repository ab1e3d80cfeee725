"""The plan of the house, read from the sources: who imports whom, how large a room may grow."""

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mssgen"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# From the caller down: a module imports from its own room and from the rows below, never from above
# and never from another room of its own row. The last row holds single modules, which may.
WORKSHOPS = ["training", "evaluation", "analysis", "rendering", "publishing"]
ROWS = [
    ["__main__"],
    ["cli"],
    WORKSHOPS,
    ["jobs"],
    ["pipeline"],
    ["enhancers"],
    ["encoders", "refiners", "inspection"],
    ["codecs", "separators", "library"],
    ["checkpoints"],
    ["inputs"],
    ["audio"],
    ["recipes"],
    ["outputs", "devices", "files", "memory", "leftovers", "streams", "events", "extras", "errors"],
]
# Each of these libraries appears in its own adapters only.
OWNERS: dict[str, set[str]] = {
    "demucs": {"separators.original"},
    "huggingface_hub": {"checkpoints.hub", "checkpoints.hub_client", "checkpoints.pushing"},
    "mutagen": {"audio.tags", "audio.containers.channel_maps"},
    "soundfile": {
        "audio.containers.part_reader",
        "audio.containers.parts",
        "audio.tags",
        "audio.writing",
    },
    "soxr": {"audio.resampling"},
    "jinja2": {"inspection.html"},
    "yaml": {"checkpoints.yaml_files", "evaluation.listening.webmushra"},
    "pickle": set(),
    "stempeg": {"library.stem_mp4"},
    "auraloss": {"training.codec.losses", "evaluation.metrics.spectral"},
    "librosa": {
        "training.codec.losses",
        "evaluation.metrics.features",
        "evaluation.metrics.proxies",
        "evaluation.metrics.spectral",
    },
    "museval": {"evaluation.metrics.bsseval"},
    "lightning_fabric": {"training.parallel"},
    "matplotlib": {"analysis.plots", "inspection.pictures", "training.logs"},
    "sklearn": {"analysis.statistics"},
    "mido": {"rendering.midi"},
    "pysinsy": {"rendering.singing"},
    "torchaudio": set(),
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
# Functions that may be longer, each with its reason.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}


def imports(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


@cache
def imported(path: Path) -> set[str]:
    """Full names; `from mssgen.checkpoints import hub` counts as mssgen.checkpoints.hub."""
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path} has a relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & set(MODULES)
            names |= inner or {module}
    return names | set(required(path))


def required(path: Path) -> Iterator[str]:
    """Modules of optional packages that a file imports by `require`, or `package` in metrics."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            first = node.args[0] if node.args else None
            is_import = node.func.id in ("require", "package") and isinstance(first, ast.Constant)
            if is_import and isinstance(first.value, str):
                yield first.value


def room(module: str) -> str:
    """The folder or module directly below mssgen that `module` belongs to."""
    return module.split(".")[1]


def row(module: str) -> int:
    """The index in ROWS of the room that `module` belongs to."""
    for index, rooms in enumerate(ROWS):
        if room(module) in rooms:
            return index
    pytest.fail(f"{module} has no place in the plan: give its room a row in ROWS")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "mssgen"])
def test_imports_point_down(module: str) -> None:
    for name in imported(MODULES[module]):
        if not name.startswith("mssgen.") or room(name) == room(module):
            continue
        assert row(module) <= row(name), f"{module} imports its caller {name}"
        if row(module) == row(name):
            assert room(name) in ROWS[-1], f"{module} imports {name}, a room beside its own"


def test_there_is_no_circle() -> None:
    graph = {
        module: {name for name in imported(path) if name in MODULES and name != "mssgen"} - {module}
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_each_name_has_one_address() -> None:
    """A name is imported from the module that defines it, never from one that imports it too."""
    defined = {module: definitions(path) for module, path in MODULES.items()}
    for module, path in MODULES.items():
        for node in imports(path):
            if not isinstance(node, ast.ImportFrom) or node.module not in MODULES:
                continue
            for alias in node.names:
                is_module = f"{node.module}.{alias.name}" in MODULES
                assert is_module or alias.name in defined[node.module] | {"__version__"}, (
                    f"{module} imports {alias.name} from {node.module}, which does not define it"
                )
                assert alias.asname != alias.name or module == "mssgen", (
                    f"{module} passes on {alias.name}, which has its address in {node.module}"
                )


def definitions(path: Path) -> set[str]:
    """The names that a module defines at its top level."""
    names: set[str] = set()
    stack: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.If | ast.Try):
            stack += [*node.body, *node.orelse]
    return names


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_stays_in_its_adapter(library: str) -> None:
    users = {
        module.removeprefix("mssgen.")
        for module, path in MODULES.items()
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == OWNERS[library]


# Packages of extras that rooms on the way to a stem use where they are installed.
GUARDED = {"demucs", "jinja2", "markupsafe", "matplotlib", "stempeg"}


def test_the_product_needs_only_what_the_plain_install_brings() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    names = {re.split(r"[<>=]", line)[0] for line in project["project"]["dependencies"]}
    declared = {{"pyyaml": "yaml"}.get(name, name.replace("-", "_")) for name in names}
    declared |= {"pydantic_core"}  # comes with pydantic
    for module, path in MODULES.items():
        if module != "mssgen" and row(module) > ROWS.index(WORKSHOPS):
            used = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
            assert used <= declared | GUARDED | {"mssgen"}, f"{module} imports {used - declared}"


def renames(tree: ast.AST) -> Iterator[int]:
    """Lines that may give a file a name: os.replace, Path.rename, shutil.move and their kin."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            names = {alias.name for alias in node.names}
            yield from [node.lineno] * bool(names & {"replace", "rename", "renames", "move"})
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, node.func.value
        is_os = isinstance(owner, ast.Name) and owner.id in ("os", "shutil")
        # str.replace has two arguments, dataclasses.replace and datetime.replace have keywords.
        is_path = name == "replace" and len(node.args) == 1 and not node.keywords
        if name in ("rename", "renames") or is_path or (is_os and name in ("replace", "move")):
            yield node.lineno


def test_one_module_gives_files_their_names() -> None:
    for module, path in MODULES.items():
        lines = list(renames(ast.parse(path.read_text(encoding="utf-8"))))
        assert bool(lines) == (module == "mssgen.files"), f"{path}:{lines}: use mssgen.files"


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# Model cards show commands to type.
SHOWING_COMMANDS = {"publishing.card"}
# Options of other programs.
FOREIGN_FLAGS = {"--porcelain", "--version", "--no-build-isolation"}


def test_the_library_does_not_speak_the_command_lines_words() -> None:
    """A Python user who passes clip="x" must not be told of a flag that they never typed."""
    speaking = {
        module.removeprefix("mssgen.")
        for module, path in MODULES.items()
        if not module.startswith("mssgen.cli")
        and set(FLAG.findall(path.read_text(encoding="utf-8"))) - FOREIGN_FLAGS
    }
    assert speaking == SHOWING_COMMANDS


def test_only_the_command_line_draws() -> None:
    for module, path in MODULES.items():
        used = {name.split(".")[0] for name in imported(path)} & {"typer", "rich"}
        assert not used or module.startswith("mssgen.cli"), f"{module} imports {used}"


def test_the_hall_is_small() -> None:
    """What lies beside the rooms: a newcomer reads these names first."""
    hall = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(hall) <= 10, sorted(hall)


def test_files_stay_short() -> None:
    lengths = {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, path in MODULES.items()
    }
    assert {
        module: length
        for module, length in lengths.items()
        if length > MAX_FILE_LINES and module not in LONG_FILES
    } == {}


def test_functions_stay_short() -> None:
    """Docstrings do not count, nor do command-line functions, which are lists of options."""
    long = {}
    for module, path in MODULES.items():
        if module.startswith("mssgen.cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[ast.get_docstring(node) is not None :] or node.body
                n_lines = (node.end_lineno or 0) - first[0].lineno + 1
                if n_lines > MAX_FUNCTION_LINES and f"{module}.{node.name}" not in LONG_FUNCTIONS:
                    long[f"{module}.{node.name}"] = n_lines
    assert long == {}


def test_every_module_says_what_it_is_for() -> None:
    for module, path in MODULES.items():
        source = path.read_text(encoding="utf-8")
        assert not source.strip() or ast.get_docstring(ast.parse(source)), module
