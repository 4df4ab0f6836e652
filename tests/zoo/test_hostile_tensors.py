"""Hostile safetensors: absurd headers, offsets and shapes, refused from the header alone."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from snntorch_smixer import from_pretrained
from snntorch_smixer.cards.folder import read_tensors, tensor_shapes
from snntorch_smixer.errors import CardError
from snntorch_smixer.zoo import hub as loading


def row(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def packed(header, data=b"", length=None):
    """Bytes of a safetensors file; ``length`` is what it claims about its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_shapes_are_read_from_the_header(path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.bfloat16), "c": torch.zeros(0, 5)}, path)
    assert tensor_shapes(path) == {"a": (2, 3), "b": (), "c": (0, 5)}
    path.write_bytes(packed({"__metadata__": {"x": "y"}, "a": row([2], 0, 8)}, bytes(8)))
    assert tensor_shapes(path) == {"a": (2,)}


TOO_LONG = "its header claims {} bytes of {}"
MALFORMED = "malformed header: "

BAD = {
    "empty": (b"", TOO_LONG.format(0, 0)),
    "short": (b"1234567", "bytes of 7"),
    "claims 2^64": (b"\xff" * 8, TOO_LONG.format(2**64 - 1, 8)),
    "claims 2^63": (packed({}, length=2**63), TOO_LONG.format(2**63, 10)),
    "claims one too many": (packed({}, length=3), TOO_LONG.format(3, 10)),
    "list": (packed([]), MALFORMED),
    "text": (packed(b'"x"'), MALFORMED),
    "NaN": (packed(b'{"a":NaN}'), MALFORMED),
    "a name twice": (
        packed(b'{"a":%b,"a":%b}' % (2 * (json.dumps(row([2], 0, 8)).encode(),)), bytes(8)),
        MALFORMED + "a name is there twice",
    ),
    "nesting": (packed(b'{"a":' + b"[" * 100_000), MALFORMED + "maximum recursion depth"),
    "digits": (packed(b'{"a":' + b"9" * 5000 + b"}"), MALFORMED + "Exceeds the limit"),
    "binary": (packed(b"\x80\x04\x95"), MALFORMED),
    "row of text": (packed({"a": "F32"}), MALFORMED),
    "no shape": (packed({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), MALFORMED + "'shape'"),
    "negative side": (packed({"a": row([-2], 0, 8)}, bytes(8)), MALFORMED + "shape (-2,) at 0..8 of 8 bytes"),
    "two negative sides": (packed({"a": row([-2, -1], 0, 8)}, bytes(8)), MALFORMED + "shape (-2, -1)"),
    "half a side": (packed({"a": row([2.0], 0, 8)}, bytes(8)), MALFORMED + "shape (2.0,)"),
    "true": (packed({"a": row([True], 0, 4)}, bytes(4)), MALFORMED + "shape (True,)"),
    "unknown type": (packed({"a": row([2], 0, 8, "PICKLE")}, bytes(8)), MALFORMED + "'PICKLE'"),
    "absurd side": (
        packed({"a": row([2**62], 0, 8)}, bytes(8)),
        MALFORMED + "shape (4611686018427387904,) of F32 in 8",
    ),
    "overflowing": (packed({"a": row([2**32, 2**32], 0, 0)}), MALFORMED + "shape (4294967296, 4294967296) of F32 in 0"),
    "beyond the end": (packed({"a": row([2], 0, 8)}, bytes(7)), MALFORMED + "shape (2,) at 0..8 of 7 bytes"),
    "backwards": (packed({"a": row([0], 8, 0)}, bytes(8)), MALFORMED + "shape (0,) at 8..0 of 8 bytes"),
    "negative offset": (packed({"a": row([2], -8, 0)}, bytes(8)), MALFORMED + "shape (2,) at -8..0"),
    "three offsets": (packed({"a": {**row([2], 0, 8), "data_offsets": [0, 4, 8]}}, bytes(8)), MALFORMED + "too many"),
    "too small": (packed({"a": row([2], 0, 4)}, bytes(8)), MALFORMED + "shape (2,) of F32 in 4 bytes"),
    "overlap": (packed({"a": row([2], 0, 8), "b": row([2], 4, 12)}, bytes(12)), "invalid offset for tensor"),
    "same bytes twice": (packed({"a": row([2], 0, 8), "b": row([2], 0, 8)}, bytes(8)), "invalid offset for tensor"),
    "hole": (packed({"a": row([2], 8, 16)}, bytes(16)), "invalid offset for tensor"),
    "bytes behind": (packed({"a": row([2], 0, 8)}, bytes(9)), "file not fully covered"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_safetensors_file_is_refused(path, case):
    content, what = BAD[case]
    path.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(CardError) as caught:
        read_tensors(path)
    assert time.perf_counter() - began < 1
    assert str(caught.value).startswith(f"{path}: not a readable safetensors file (")
    assert what in str(caught.value)
    assert str(caught.value).endswith("). Get it again.")


@pytest.fixture
def folder(made, tmp_path):
    made(tmp_path / "tiny")
    (tmp_path / "tiny" / "card.toml").unlink()
    return tmp_path / "tiny"


def refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CardError) as caught:
        from_pretrained(folder)
    return str(caught.value)


@pytest.mark.parametrize("case", BAD)
def test_no_case_is_loaded(folder, case):
    assert f"{folder / 'model.safetensors'}: " in refused(folder, BAD[case][0])


def test_shapes_that_do_not_fit_are_found_before_the_tensors_are_read(folder, monkeypatch):
    monkeypatch.setattr(loading, "read_tensors", lambda path: pytest.fail("weights were read"))
    state = load_file(folder / "model.safetensors")
    state["blocks.1.mlp.expand.linear.weight"] = torch.zeros(64, 17)
    save_file(state, folder / "model.safetensors")
    assert "first blocks.1.mlp.expand.linear.weight: expected (64, 16), got (64, 17). " in refused(
        folder, (folder / "model.safetensors").read_bytes()
    )


def test_too_few_tensors_are_refused_before_anything_is_built(folder, monkeypatch):
    monkeypatch.setattr(loading, "shapes_of", lambda config: pytest.fail("a network was built"))
    assert "1 tensors for 2 blocks. Use the config.json that belongs." in refused(folder, packed({"a": row([0], 0, 0)}))


def test_empty_tensors_do_not_vouch_for_blocks(folder, monkeypatch):
    monkeypatch.setattr(loading, "shapes_of", lambda config: pytest.fail("a network of 30,000 blocks was built"))
    raw = json.loads((folder / "config.json").read_text())
    raw["config"]["depth"] = 30_000
    (folder / "config.json").write_text(json.dumps(raw))
    refused(folder, packed({str(i): row([0], 0, 0) for i in range(30_000)}))


def test_an_empty_tensor_with_an_absurd_side_is_refused(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "wrapped": {"swap": False, "dstsp": {"ps": 0.3}}}))
    refused(folder, packed({str(i): row([0, 10**30], 0, 0) for i in range(200)}))


def test_other_types_are_not_taken_for_floats(folder):
    state = load_file(folder / "model.safetensors")
    state["head.linear.bias"] = torch.zeros(5, dtype=torch.complex64)
    save_file(state, folder / "model.safetensors")
    assert "malformed header: 'C64'" in refused(folder, (folder / "model.safetensors").read_bytes())
