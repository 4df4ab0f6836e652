"""What modules remember, taken down and put back."""

import torch
from torch import nn

from snntorch_smixer.patching.state import State


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.seen, self.table = 0.0, [], {"v": 0.0}
        self.register_buffer("mem", torch.zeros(2))
        self.child = nn.ReLU()


def test_put_back_undoes_what_a_call_leaves():
    module = Remembers()
    mem, seen, table = module.mem, module.seen, module.table
    state = State(module)
    module.v, module.mem, module.child.extra = torch.ones(2), torch.ones(2), "new"
    module.seen.append(1)
    module.table["v"] = torch.ones(2)
    module.register_forward_hook(print)
    state.put_back()
    assert module.v == 0.0
    assert module.mem is mem
    assert (module.seen, module.table) == ([], {"v": 0.0})
    assert (module.seen is seen, module.table is table) == (True, True)
    assert not hasattr(module.child, "extra")
    assert not module._forward_hooks


def test_what_is_written_into_is_noticed():
    for write in (lambda m: m.mem.add_(1), lambda m: m.table["t"].zero_(), lambda m: m.seen[0].mul_(2)):
        module = Remembers()
        module.table["t"], module.seen = torch.ones(1), [torch.ones(1)]
        state = State(module)
        module.v, module.mem.data = torch.ones(2), module.mem.data
        assert not state.is_overwritten()
        write(module)
        assert state.is_overwritten()
