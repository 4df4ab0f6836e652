"""Checkpoint files: told by their content, unwrapped, and pickles only where they are allowed, which run no code."""

import argparse
import copy
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.zoo.checkpoint import open_checkpoint, read_checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.count": torch.tensor(7)}


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def is_state(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def test_safetensors_under_any_name(path: Path):
    save_file(STATE, path)
    assert is_state(read_checkpoint(path))
    assert is_state(read_checkpoint(str(path), allow_pickle=True))
    assert open_checkpoint(path).entry == ""


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_unless_allowed(tmp_path: Path, name: str, zipped: bool):
    path = tmp_path / name
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CardError, match=r"a pickle, not safetensors\. Pickles can run code .*--allow-pickle.*weights_"):
        read_checkpoint(path)
    assert is_state(read_checkpoint(path, allow_pickle=True))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_pickle_never_runs(tmp_path: Path, path: Path, nested: bool, by_torch: bool):
    trap = tmp_path / "trap"
    content = {"state_dict": STATE, "extra": Bomb(trap)} if nested else Bomb(trap)
    if by_torch:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    for allowed, match in ((False, "Pickles can run code"), (True, "weights_only=True does not load it")):
        with pytest.raises(CardError, match=match):
            read_checkpoint(path, allow_pickle=allowed)
        assert not trap.exists()
    torch.load(path, weights_only=False) if by_torch else pickle.loads(path.read_bytes())
    assert trap.exists(), "the trap does not work, so nothing was shown"


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ({"state_dict": STATE, "model": {"c": torch.zeros(1)}, "epoch": 3}, "state_dict"),
        ({"state_dict_ema": {"c": torch.zeros(1)}, "model": STATE}, "model"),
        ({"state_dict_ema": STATE, "epoch": 3}, "state_dict_ema"),
        ({"model_state_dict": STATE, "optimizer": {"lr": 0.1}}, "model_state_dict"),
        ({"model": {"state_dict": STATE, "step": 1}}, "model.state_dict"),
        ({"model": {f"module.{name}": tensor for name, tensor in STATE.items()}, "step": 1}, "model"),
        ({f"_orig_mod.module.{name}": tensor for name, tensor in STATE.items()}, ""),
        ({"model": STATE, "args": argparse.Namespace(lr=0.1, data="images")}, "model"),
    ],
)
def test_training_checkpoints_are_unwrapped(path: Path, content: dict[str, object], entry: str):
    torch.save(content, path)
    found = open_checkpoint(path, allow_pickle=True)
    assert is_state(found.state)
    assert found.entry == entry


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "expected tensors by name, got list"),
        ({}, "expected tensors by name, got dict"),
        ({"model": {}}, "entry model: expected tensors by name"),
        ({"weights": STATE}, "'weights' is dict, expected tensors by name, or .* state_dict, model"),
        ({"model": {**STATE, "epoch": 3}}, "entry model: 'epoch' is int"),
        ({"a": STATE["b.count"], "module.a": STATE["b.count"]}, "differ only by module"),
        ({0: STATE["b.count"]}, "0 is Tensor, expected tensors by name"),
    ],
)
def test_what_is_no_state_dict_is_named(path: Path, content: object, match: str):
    torch.save(content, path)
    with pytest.raises(CardError, match=match):
        read_checkpoint(path, allow_pickle=True)


def test_missing_and_damaged_files(path: Path):
    with pytest.raises(CardError, match=r"weights\.pth: no such file"):
        read_checkpoint(path)
    save_file(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CardError, match=r"weights\.pth.*Get it again"):
        read_checkpoint(path)
    for content in (b"", whole[:20], b"words", b"PK\x03\x04 and no more", b"\x80\x02 and no more"):
        path.write_bytes(content)
        with pytest.raises(CardError, match="not safetensors"):
            read_checkpoint(path)
        with pytest.raises(CardError, match="weights_only=True does not load it"):
            read_checkpoint(path, allow_pickle=True)
    path.write_bytes(b"words")
    with pytest.raises(CardError, match="a file of unknown kind"):
        read_checkpoint(path)


@pytest.mark.parametrize("change", ["compressed", "shared"])
def test_an_archive_that_unpacks_to_more_than_it_has_is_refused(path: Path, change: str):
    torch.save({"a": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    kind = zipfile.ZIP_DEFLATED if change == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for entry, content in entries:
            archive.writestr(entry.filename, content)
        if change == "shared":  # many names of the same bytes
            big = max(archive.filelist, key=lambda entry: entry.file_size)
            copies = [copy.copy(big) for _ in range(8)]
            for number, twin in enumerate(copies):
                twin.filename = f"{big.filename}{number}"
            archive.filelist += copies
    with pytest.raises(CardError, match="archive with compressed entries"):
        read_checkpoint(path, allow_pickle=True)


def test_views_that_are_larger_than_the_file_are_refused(path: Path):
    torch.save({"head.weight": torch.zeros(1).expand(1 << 20, 1 << 10)}, path)
    with pytest.raises(CardError, match=r"tensors of 4294967296 bytes in a file of \d+, first head.weight"):
        read_checkpoint(path, allow_pickle=True)


def test_tied_weights_are_read(path: Path):
    weight = torch.randn(50, 50)
    torch.save({"a": weight, "b": weight}, path)
    assert torch.equal(read_checkpoint(path, allow_pickle=True)["b"], weight)
