"""Attention in one call counts as its two products written out, and no other way."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from snntorch_smixer.cost import measure
from snntorch_smixer.cost.records import Records
from tests.cost.replay import values

B, HEADS, ROWS, KEYS, WIDTH = 2, 4, 3, 5, 8


class Attention(nn.Module):
    def __init__(self, attend: Callable, **settings: object) -> None:
        super().__init__()
        self.attend, self.settings = attend, settings

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v, **self.settings)


def written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v


def forced(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v)


def operands(kinds: str, heads: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = kinds.split()
    return values(q, B, HEADS, ROWS, WIDTH), values(k, B, heads, KEYS, WIDTH), values(v, B, heads, KEYS, WIDTH)


def products(records: Records) -> list[tuple]:
    return [(r.operand, dict(r.counts), r.events, r.activation_bytes) for r in records.layers if r.op == "act_act"]


@pytest.mark.parametrize("heads", [HEADS, 2, 1])
@pytest.mark.parametrize("kinds", ["analog analog analog", "spikes spikes spikes", "analog analog spikes"])
def test_attention_in_one_call_is_its_two_products(kinds: str, heads: int):
    batch = operands(kinds, heads)
    records = measure(Attention(F.scaled_dot_product_attention, enable_gqa=heads < HEADS), batch, strict=True)
    truth = measure(Attention(written), batch, strict=True)
    assert products(records) == products(truth)
    assert len(products(records)) == 2
    assert records.total("special") == truth.total("special") == B * HEADS * ROWS * KEYS
    assert records.total("dense") == 2 * B * HEADS * ROWS * KEYS * WIDTH


def test_the_second_product_of_attention_delivers_the_spikes_of_v():
    q, k, v = operands("analog analog spikes")
    first, second = measure(Attention(F.scaled_dot_product_attention), (q, k, v)).layers[:2]
    weights = B * HEADS * ROWS * KEYS
    assert first["mac"] == weights * WIDTH
    assert (second.operand, second["mac"], second["inputs"]) == ("analog+spikes", 0, weights + v.numel())
    assert second["act_act"] == weights * WIDTH + int(v.sum()) * ROWS


def test_masked_entries_of_attention_are_no_events():
    q, k, v = operands("analog analog spikes")
    records = measure(Attention(F.scaled_dot_product_attention, is_causal=True), (q, k, v), strict=True)
    open_ = B * HEADS * (1 + 2 + 3)
    assert products(records)[1][1]["act_act"] == open_ * WIDTH + int(v.sum()) * ROWS


def test_attention_that_a_model_forces_into_one_kernel_is_listed():
    with torch.no_grad():
        records = measure(Attention(forced), operands("analog analog analog"))
    (entry,) = records.uncounted
    assert "flash_attention" in entry.op
    assert records.total("mac") == 0


def test_kernels_of_attention_are_switched_back_on():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    measure(Attention(F.scaled_dot_product_attention), operands("analog analog analog"))
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == before
