"""Files of a model folder: hashed in pieces, and written all or none."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from snntorch_smixer.cards.card import FileRecord
from snntorch_smixer.cards.folder import check_file, read_json, read_tensors, record_of, record_of_bytes, write_files
from snntorch_smixer.errors import CardError


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_a_record_of_a_file_is_that_of_its_bytes(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(content)
    wanted = FileRecord(hashlib.sha256(content).hexdigest(), size)
    assert record_of(tmp_path / "f") == record_of_bytes(content) == wanted


def test_a_file_is_compared_with_its_record(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    check_file(path, record_of_bytes(b"abc"), owner="tiny")
    with pytest.raises(CardError) as caught:
        check_file(path, record_of_bytes(b"abcd"), owner="tiny")
    assert str(caught.value) == (
        f"{path}: 3 bytes, the card of tiny says 4; the file is truncated or another one. Get it again."
    )
    with pytest.raises(CardError) as caught:
        check_file(path, record_of_bytes(b"abd"), owner="tiny")
    assert str(caught.value) == (
        f"{path}: SHA-256 ba7816bf8f01..., the card of tiny says a52d159f262b...; the file is corrupt or another one. "
        "Get it again."
    )


def test_json_is_read(tmp_path):
    (tmp_path / "f.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "f.json") == {"a": [1, "é"]}
    with pytest.raises(CardError) as caught:
        read_json(tmp_path / "g.json")
    assert str(caught.value) == f"{tmp_path / 'g.json'}: no such file. Restore it, or name another folder."


def test_tensors_are_read(tmp_path):
    state = {"a": torch.randn(2, 3), "b": torch.arange(4), "c": torch.randn(2).bfloat16()}
    save_file(state, tmp_path / "f")
    found = read_tensors(tmp_path / "f")
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items())


def test_files_are_written_and_replaced(tmp_path):
    write_files(tmp_path / "a" / "b", {"x": b"1", "y": b"2"})
    write_files(tmp_path / "a" / "b", {"x": b"3"})
    assert {p.name: p.read_bytes() for p in (tmp_path / "a" / "b").iterdir()} == {"x": b"3", "y": b"2"}


def test_a_reader_of_the_old_file_keeps_it(tmp_path):
    write_files(tmp_path, {"x": b"old"})
    with (tmp_path / "x").open("rb") as file:
        write_files(tmp_path, {"x": b"new"})
        assert file.read() == b"old"
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_write_that_fails_leaves_no_trace(tmp_path):
    write_files(tmp_path, {"x": b"old"})
    with pytest.raises(TypeError):
        write_files(tmp_path, {"x": b"new", "y": None})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"x": b"old"}
