"""hf://OWNER/NAME: a checkpoint folder of anyone's, pushed to and pulled from a loopback hub."""

from pathlib import Path

import pytest
import torch

from mssgen.checkpoints.resolving import resolve
from mssgen.codecs.loading import load_codec, save_codec
from mssgen.encoders.files import load_stem_encoder
from mssgen.errors import CheckpointError, UsageError
from mssgen.publishing.release import prepare_release, push

from support.hubserver import Fault, HubServer
from support.toys import tiny_codec, write_tiny_encoder

ADDRESS = "hf://me/bass"
PARTS = ["config.json", "model.safetensors", "codec/config.json", "codec/model.safetensors"]


@pytest.fixture(autouse=True)
def server(hub_server: HubServer) -> HubServer:
    return hub_server


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_encoder(tmp_path / "checkpoint")


def send(folder: Path, repo: str = "me/bass") -> str:
    return push(prepare_release(folder, repo, licence="mit"))


def same_files(one: Path, two: Path) -> bool:
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in PARTS)


def test_what_was_pushed_comes_back_bit_for_bit(checkpoint: Path, server: HubServer) -> None:
    commit = send(checkpoint)
    assert sorted(server.repos["me/bass"].commits[commit]) == sorted([*PARTS, "README.md"])
    found = resolve(ADDRESS, stage="enhance")
    (folder,) = found.paths
    assert (found.name, found.bundle, found.where) == (ADDRESS, None, "hub")
    assert same_files(checkpoint, folder)
    assert resolve(ADDRESS).where == "cache"
    audio = torch.randn(2, 1, 4001)
    before, after = load_stem_encoder(checkpoint), load_stem_encoder(folder)
    assert torch.equal(before(audio).latents, after(audio).latents)
    codes = after.codes(after(audio))
    assert torch.equal(before.codes(before(audio)), codes)
    assert torch.equal(
        before.codec.synthesize(before.codec.dequantize(codes), 4001),
        after.codec.synthesize(after.codec.dequantize(codes), 4001),
    )


def test_only_the_files_of_a_checkpoint_are_fetched(checkpoint: Path, server: HubServer) -> None:
    send(checkpoint)
    server.repos["me/bass"].commit({"evil.pkl": b"cos\nsystem\n", "model.th": b"PK"})
    server.requests.clear()
    resolve(ADDRESS)
    asked = {path.partition("/resolve/")[2].partition("/")[2] for _, path, _ in server.requests}
    assert asked == set(PARTS)


def test_a_codec_has_an_address_too(tmp_path: Path) -> None:
    save_codec(tiny_codec(), tmp_path / "codec")
    send(tmp_path / "codec", "me/codec")
    assert load_codec("hf://me/codec").codec_id == tiny_codec().codec_id
    with pytest.raises(CheckpointError, match="hf://me/codec holds a codec, not a stem encoder"):
        resolve("hf://me/codec", stage="enhance")


def test_the_wrong_kind_is_refused_before_its_weights_come(
    checkpoint: Path, server: HubServer
) -> None:
    send(checkpoint)
    server.requests.clear()
    with pytest.raises(CheckpointError, match=r"stem encoder, not a separator.*mssgen enhance"):
        resolve(ADDRESS, stage="separate")
    assert all(path.endswith("/config.json") for _, path, _ in server.requests)


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://bass",
        "hf:///bass",
        "hf://me/bass/",
        "hf://me/bass/codec",
        "hf://me/../bass",
        "hf://me/b--s",
        "hf://.me/bass",
        "hf://me/bass main",
        f"hf://me/{'b' * 400}",
        "hf://me/bass@",
        "hf://me/bass@/main",
        "hf://me/bass@a/../b",
        "hf://me/bass@../../etc",
    ],
)
def test_malformed_addresses_are_wrong_calls(address: str, server: HubServer) -> None:
    with pytest.raises(UsageError, match=r"not the address .* write hf://OWNER/NAME"):
        resolve(address)
    assert not server.requests


def test_offline_takes_the_cache(checkpoint: Path, server: HubServer) -> None:
    send(checkpoint)
    with pytest.raises(CheckpointError, match=r"hf://me/bass is not on this machine.*pull"):
        resolve(ADDRESS, offline=True)
    folder = resolve(ADDRESS).paths[0]
    server.requests.clear()
    assert resolve(ADDRESS, offline=True).paths == (folder,)
    pinned = f"{ADDRESS}@{folder.name}"
    assert resolve(pinned).paths == (folder,)  # a commit never changes
    assert not server.requests
    server.faults["HEAD"].append(Fault(401))
    with pytest.raises(CheckpointError, match="`offline=True` uses the copy on this machine"):
        resolve(ADDRESS)


def test_a_newer_commit_is_found(checkpoint: Path, tmp_path: Path) -> None:
    first = send(checkpoint)
    old = resolve(ADDRESS).paths[0]
    other = write_tiny_encoder(tmp_path / "other", seed=1)
    second = send(other)
    assert second != first
    assert resolve(f"{ADDRESS}@{second}").paths[0].name == second  # main is still the old one here
    new = resolve(ADDRESS).paths[0]
    assert same_files(new, other)
    assert resolve(f"{ADDRESS}@{first}").paths == (old,)
    assert same_files(old, checkpoint)
    assert resolve(ADDRESS, offline=True).paths == (new,)


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_push_in_the_middle_of_a_download_mixes_nothing(
    checkpoint: Path, tmp_path: Path, server: HubServer, is_cached: bool
) -> None:
    first = send(checkpoint)
    other = write_tiny_encoder(tmp_path / "other", seed=1)
    if is_cached:  # main's files of another commit lie in the cache, with other weights
        resolve(ADDRESS)
        first = send(write_tiny_encoder(tmp_path / "third", seed=2))
    second = prepare_release(other, "me/bass", licence="mit")
    contents = {
        name: content.read_bytes() if isinstance(content, Path) else content
        for name, content in second.files.items()
    }

    def push_meanwhile(method: str, path: str) -> None:
        if "model.safetensors" in path and server.repos["me/bass"].newest == first:
            server.repos["me/bass"].commit(contents)

    server.before_request = push_meanwhile
    folder = resolve(ADDRESS).paths[0]
    assert server.repos["me/bass"].newest != first
    assert folder.name == first
    assert same_files(folder, tmp_path / "third" if is_cached else checkpoint)
    assert same_files(resolve(ADDRESS).paths[0], other)


def test_weights_with_another_hash_are_refused(checkpoint: Path, server: HubServer) -> None:
    send(checkpoint)
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    server.repos["me/bass"].commit({"model.safetensors": bytes(weights)})
    with pytest.raises(CheckpointError, match=r"hf://me/bass is refused.*twice with a wrong hash"):
        resolve(ADDRESS)


def test_a_damaged_copy_in_the_cache_is_replaced(checkpoint: Path) -> None:
    send(checkpoint)
    folder = resolve(ADDRESS).paths[0]
    (folder / "codec/model.safetensors").resolve().write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        resolve(ADDRESS, offline=True)
    assert same_files(resolve(ADDRESS).paths[0], checkpoint)


@pytest.mark.parametrize(
    ("fault", "said"), [(Fault(401), "asks for a login"), (Fault(451), "answered 451")]
)
def test_the_hub_says_no(checkpoint: Path, server: HubServer, fault: Fault, said: str) -> None:
    send(checkpoint)
    server.faults["HEAD"].append(fault)
    with pytest.raises(CheckpointError, match=f"hf://me/bass could not be downloaded: .*{said}"):
        resolve(ADDRESS)


@pytest.mark.parametrize("address", ["hf://me/absent", f"{ADDRESS}@v9"])
def test_what_is_not_there(checkpoint: Path, address: str) -> None:
    send(checkpoint)
    with pytest.raises(CheckpointError, match=r"has no config.json .*404.* check the address"):
        resolve(address)
