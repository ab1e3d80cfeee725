import re
import subprocess
import sys

import pytest

from mssgen.checkpoints.bundles import Bundle
from mssgen.checkpoints.families import FAMILIES
from mssgen.checkpoints.registry import LAYOUTS, REGISTRY, lookup
from mssgen.checkpoints.warned import WARNED
from mssgen.errors import UsageError
from mssgen.recipes.schema import checked_options
from mssgen.separators.loading import TRUNKS

JOINT = [bundle for bundle in REGISTRY.values() if bundle.is_joint]
RELEASED = [bundle for bundle in REGISTRY.values() if bundle.options]
BUNDLES = pytest.mark.parametrize(
    "bundle",
    [bundle for bundle in REGISTRY.values() if not bundle.options and not bundle.is_joint],
    ids=lambda bundle: bundle.name,
)
FILE_NAMES = {"separate": r"[0-9a-f]{8}\.safetensors", "codec": r"model\.safetensors|codec\.pth"}


def test_the_four_models_of_the_demucs_family() -> None:
    separators = [name for name, bundle in REGISTRY.items() if bundle.stage == "separate"]
    assert separators[:4] == ["htdemucs", "htdemucs_ft", "htdemucs_6s", "hdemucs_mmi"]
    assert separators[4:] == [bundle.name for bundle in (*RELEASED, *JOINT)]
    assert all(name == bundle.name for name, bundle in REGISTRY.items())


def test_codecs_have_no_stems_and_are_no_separators() -> None:
    codecs = [bundle for bundle in REGISTRY.values() if bundle.stage == "codec"]
    assert [bundle.name for bundle in codecs] == [
        "stem_codec",
        "encodec_24khz",
        "encodec_48khz",
        "dac_44khz",
        "dac_24khz",
        "dac_16khz",
        "vampnet_codec",
    ]
    assert all(bundle.stems == () for bundle in codecs)
    with pytest.raises(UsageError, match="encodec_24khz is a codec, not a separator") as caught:
        lookup("encodec_24khz", "separate")
    assert "`mssgen codec`" in str(caught.value)
    with pytest.raises(UsageError, match="htdemucs is a separator, not a codec"):
        lookup("htdemucs", "codec")
    with pytest.raises(UsageError) as caught:
        lookup("encodec", "codec")
    assert "htdemucs" not in str(caught.value)


@BUNDLES
def test_rows_are_consistent(bundle: Bundle) -> None:
    for file in bundle.files:
        # A name from the table can never lead out of a folder.
        assert re.fullmatch(FILE_NAMES[bundle.stage], file.name)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    if not bundle.repo:
        assert bundle.embedded
        assert not bundle.files
        assert bundle.licence == "CC BY 4.0"
        return
    assert re.fullmatch(r"[\w-]+/[\w-]+", bundle.repo)
    if bundle.revision is None:
        assert "revision" in bundle.note
    else:
        assert re.fullmatch(r"[0-9a-f]{40}", bundle.revision)
    if any(file.sha256 is None for file in bundle.files):
        assert "hash" in bundle.note
    if bundle.member_stems is not None:
        assert len(bundle.member_stems) == len(bundle.files)
        assert {stem for stems in bundle.member_stems for stem in stems} == set(bundle.stems)


@BUNDLES
def test_all_statements_about_the_licence_are_kept(bundle: Bundle) -> None:
    if not bundle.repo:  # ours: what it was trained on is told where the weights are
        assert "weights/README.md" in bundle.licence_note
        return
    assert "MIT" in bundle.licence_note or "mit" in bundle.licence_note
    if bundle.stage == "separate":
        assert "facebookresearch/demucs#327" in bundle.licence_note
    if bundle.name.startswith("encodec"):
        assert "CC BY-NC 4.0" in bundle.licence_note


def test_rows_of_released_separators_are_consistent() -> None:
    for bundle in RELEASED:
        (file,) = bundle.files
        assert re.fullmatch(r"[0-9a-f]{64}", str(file.sha256))
        assert re.fullmatch(r"(?!.*\.\.)[\w-][\w/.-]*\.(ckpt|safetensors)", file.name)
        assert file.size_bytes
        assert file.size_bytes > 4e7
        assert (bundle.page is None) == bool(bundle.repo)
        assert bundle.page is None or bundle.page.startswith("https://github.com/")
        assert bundle.revision is None or re.fullmatch(r"[0-9a-f]{40}", bundle.revision)
        assert bundle.architecture in FAMILIES
        assert bundle.origin
        assert not bundle.embedded
        assert bundle.licence in ("none stated", "MIT", "GPL-3.0")
        assert ("No licence" in bundle.licence_note) == (bundle.licence == "none stated")
        trunk = TRUNKS[bundle.architecture]
        assert trunk.Options(**checked_options(trunk.Options, bundle.options, bundle.name))
    licensed = {bundle.name for bundle in RELEASED if bundle.licence != "none stated"}
    assert licensed == {"bs_roformer_anvuew", "bs_roformer_anvuew_ft1", "mel_roformer_kim"}
    listed = {(file.size_bytes, file.sha256) for bundle in RELEASED for file in bundle.files}
    assert not listed & set(WARNED)


@pytest.mark.parametrize("bundle", JOINT, ids=lambda bundle: bundle.name)
def test_rows_with_a_file_per_stem_are_consistent(bundle: Bundle) -> None:
    assert bundle.architecture in FAMILIES
    assert bundle.origin
    assert (bundle.page is None) == bool(bundle.repo)
    assert bundle.page is None or bundle.page.startswith(("https://github.com/", "https://zenodo."))
    assert bundle.revision is None or re.fullmatch(r"[0-9a-f]{40}", bundle.revision)
    assert "hash" in bundle.note or "sha256" in bundle.note
    assert ("non-commercial" in bundle.licence) == (bundle.name == "umxl")
    if bundle.repo or bundle.architecture == "openunmix":
        stems = tuple(re.split(r"[.-]", file.name)[0] for file in bundle.files)
        assert stems == bundle.stems


def test_no_two_files_share_a_hash() -> None:
    hashes = [f.sha256 for bundle in REGISTRY.values() for f in bundle.files if f.sha256]
    assert len(set(hashes)) == len(hashes)


def test_a_bag_reads_only_the_members_it_needs() -> None:
    bag = REGISTRY["htdemucs_ft"]
    assert bag.members(None) == (0, 1, 2, 3)
    assert bag.members(frozenset({"bass"})) == (1,)
    assert bag.members(frozenset({"vocals", "drums"})) == (0, 3)
    assert REGISTRY["htdemucs"].members(frozenset({"bass"})) == (0,)


def test_sizes_add_up_or_are_not_known() -> None:
    assert REGISTRY["htdemucs_ft"].size_bytes == 4 * 84_025_440
    assert REGISTRY["hdemucs_mmi"].size_bytes is None


def test_an_unknown_name_gets_near_ones_and_the_command_that_lists_all() -> None:
    with pytest.raises(UsageError, match="did you mean htdemucs_ft") as caught:
        lookup("HTDemucs_tf")
    assert "`mssgen models list`" in str(caught.value)
    assert lookup("htdemucs_6s").stems[-2:] == ("guitar", "piano")


def test_layouts_name_the_options_of_the_published_constructor() -> None:
    (layout,) = LAYOUTS.values()
    assert layout.options["segment"] * 44_100 == 343_980


def test_the_table_loads_without_torch() -> None:
    modules = "mssgen.checkpoints.registry, mssgen.checkpoints.resolving"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
