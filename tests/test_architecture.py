"""Who may import whom: the dependency rule, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mssgen"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# From the caller down; a module imports from its own row and the rows below, never from above.
ROWS = [
    ["mssgen.__main__"],
    ["mssgen.cli"],
    ["mssgen.evaluation"],
    ["mssgen.publishing.release", "mssgen.publishing.card", "mssgen.rendering"],
    ["mssgen.training"],
    ["mssgen.jobs.batch", "mssgen.jobs.codec_files"],
    ["mssgen.jobs.song_record", "mssgen.jobs.decisions"],
    ["mssgen.codecs.coding"],
    ["mssgen.pipeline", "mssgen.analysis", "mssgen.jobs.made_by"],
    ["mssgen.enhancers"],
    ["mssgen.refiners"],
    ["mssgen.separators", "mssgen.codecs"],
    [
        "mssgen.checkpoints.resolving",
        "mssgen.checkpoints.hub",
        "mssgen.checkpoints.shrinking",
        "mssgen.checkpoints.formats",
        "mssgen.checkpoints.folders",
        "mssgen.jobs.manifest",
    ],
    ["mssgen.checkpoints.pickles"],
    [
        "mssgen.devices",
        "mssgen.checkpoints.registry",
        "mssgen.outputs",
        "mssgen.inputs.tracks",
        "mssgen.inputs.folder_scan",
        "mssgen.inputs.own_folders",
        "mssgen.inputs.lists",
        "mssgen.audio.channels",
        "mssgen.streams",
    ],
    ["mssgen.audio.reading", "mssgen.audio.writing", "mssgen.audio.encodings", "mssgen.audio.tags"],
    ["mssgen.files", "mssgen.checkpoints.tensor_files", "mssgen.audio.containers.channel_maps"],
    ["mssgen.audio.ffmpeg", "mssgen.events", "mssgen.audio.containers.part_reader"],
    ["mssgen.audio.containers.parts"],
    [
        "mssgen.audio.containers.mp3_frames",
        "mssgen.audio.containers.ogg_pages",
        "mssgen.audio.containers.flac_frames",
        "mssgen.audio.containers.header_sizes",
    ],
    [
        "mssgen.audio.containers.file_layout",
        "mssgen.audio.containers.byte_views",
        "mssgen.audio.spooling",
        "mssgen.audio.speakers",
        "mssgen.audio.containers.chunks",
    ],
    [
        "mssgen.leftovers",
        "mssgen.evaluation.commits",
        "mssgen.checkpoints.transfers",
        "mssgen.recipes.schema",
    ],
    [
        "mssgen.errors",
        "mssgen.wording",
        "mssgen.checkpoints.blueprints",
        "mssgen.checkpoints.safetensors_header",
    ],
]
# Each of these libraries appears in its own adapters only.
OWNERS = {
    "demucs": {"mssgen.separators.original"},
    "huggingface_hub": {"mssgen.checkpoints.hub"},
    "mutagen": {"mssgen.audio.tags", "mssgen.audio.containers.channel_maps"},
    "soundfile": {
        "mssgen.audio.containers.part_reader",
        "mssgen.audio.containers.parts",
        "mssgen.audio.writing",
        "mssgen.audio.tags",
    },
    "soxr": {"mssgen.audio.reading"},
    "yaml": {"mssgen.checkpoints.resolving"},
    "pickle": set(),
    "stempeg": {"mssgen.library.stem_mp4"},
    "auraloss": {"mssgen.training.codec.losses", "mssgen.evaluation.metrics.spectral"},
    "librosa": {
        "mssgen.training.codec.losses",
        "mssgen.evaluation.metrics.features",
        "mssgen.evaluation.metrics.proxies",
        "mssgen.evaluation.metrics.spectral",
    },
    "museval": {"mssgen.evaluation.metrics.bsseval"},
    "lightning_fabric": {"mssgen.training.parallel"},
    "matplotlib": {
        "mssgen.analysis.plots",
        "mssgen.inspection.pictures",
        "mssgen.training.logs",
    },
    "sklearn": {"mssgen.analysis.statistics"},
    "mido": {"mssgen.rendering.midi"},
    "pysinsy": {"mssgen.rendering.singing"},
    "torchaudio": set(),
}


def imports(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imported(path: Path) -> set[str]:
    """Full names; `from mssgen import hub` counts as mssgen.checkpoints.hub."""
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path} has a relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & set(MODULES)
            names |= inner or {module}
    return names


def row(module: str) -> int:
    """Where a module stands in ROWS; packages stand for what is in them."""
    for index, members in enumerate(ROWS):
        if any(module == name or module.startswith(f"{name}.") for name in members):
            return index
    pytest.fail(f"{module} has no place in the dependency rule: give it one in ROWS")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "mssgen"])
def test_imports_point_down(module: str) -> None:
    for name in imported(MODULES[module]):
        if name.startswith("mssgen."):
            assert row(module) <= row(name), f"{module} imports its caller {name}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_stays_in_its_adapter(library: str) -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == OWNERS[library]


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


def test_only_the_command_line_draws() -> None:
    for module, path in MODULES.items():
        used = {name.split(".")[0] for name in imported(path)} & {"typer", "rich"}
        assert not used or module.startswith("mssgen.cli"), f"{module} imports {used}"


def test_files_stay_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in MODULES.values()}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_every_module_says_what_it_is_for() -> None:
    for module, path in MODULES.items():
        source = path.read_text(encoding="utf-8")
        assert not source.strip() or ast.get_docstring(ast.parse(source)), module
