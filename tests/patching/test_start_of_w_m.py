"""Where ``W_M`` starts."""

import pytest
import torch

from snntorch_smixer import dstsp
from tests.fakes import sdt_v3


@pytest.mark.parametrize("kind", [sdt_v3.Spiking_vit_MetaFormer_Spike_SepConv, sdt_v3.Spikformer])
def test_neurons_behind_w_m_fire_where_spikes_are_quarters_and_capped_at_one(kind) -> None:
    torch.manual_seed(0)
    x, shares = torch.randn(2, 3, 64, 64), []
    net = dstsp.wrap(kind().train(), ps=0.3, t=1, example_input=x)
    for name, module in net.named_modules():
        if name.endswith(("attn_spike", "attn_lif")):
            module.register_forward_hook(lambda *call: shares.append((call[2] > 0).float().mean().item()))
    net(x).square().sum().backward()
    assert min(shares) > 0.05
    assert all(p.grad.any() for name, p in net.named_parameters() if "w_m" in name)
