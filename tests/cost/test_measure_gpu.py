"""On a GPU the counts are those of the CPU."""

import pytest
import torch

from snntorch_smixer import create_model, dstsp
from snntorch_smixer.cost import measure

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("ps", [None, 0.3])
def test_counts_on_a_gpu(ps: float | None):
    """Geometry, dense counts and coverage are equal; events too but for sums that round across a threshold."""
    torch.manual_seed(0)
    net, x = create_model("smixer-2-64-fmnist").eval(), torch.randn(2, 1, 28, 28)
    if ps is not None:
        net = dstsp.wrap(net, ps=ps, t=1)
    here, there = measure(net, x), measure(net.cuda(), x.cuda())
    assert there.coverage == 1.0
    assert [(r.layer, r.op, r["dense"], r.geometry) for r in there.layers if r["dense"]] == [
        (r.layer, r.op, r["dense"], r.geometry) for r in here.layers if r["dense"]
    ]
    assert there.total("ac") == pytest.approx(here.total("ac"), rel=0.02)
