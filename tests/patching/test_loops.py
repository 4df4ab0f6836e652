"""Models that take one step at a time: what is dropped is chosen once for a sequence."""

import copy
import pickle

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

from snntorch_smixer import LIF, dstsp, reset
from snntorch_smixer.errors import LayoutError, SettingError
from tests.fakes.step_by_step import AllSteps, OverFrames, OwnLoop, Step

SIZE = (3, 16, 24)


def frames(steps: int = 4, samples: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(steps, samples, *SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def made(kind: type, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    example = frames() if kind in (OverFrames, AllSteps) else frames()[0]
    return dstsp.wrap(model, example_input=example, **settings)


def twins(**settings: object) -> tuple[nn.Module, nn.Module]:
    """The same weights in a net that loops and in one that takes all steps at once."""
    loop, whole = made(OverFrames, **settings), made(AllSteps, **settings)
    theirs = {key: value for key, value in loop.state_dict().items() if key in whole.state_dict()}
    whole.load_state_dict({**whole.state_dict(), **{k: v for k, v in theirs.items() if "lif" not in k}})
    return loop, whole


def in_a_loop(net: nn.Module, x: Tensor, steps: list[int] | None = None) -> Tensor:
    return torch.stack([net(x[i]) for i in (range(len(x)) if steps is None else steps)])


@pytest.mark.parametrize("merge", ["drop", "softmatch", "sum", "fuse"])
@pytest.mark.parametrize(("ps", "t"), [(0.3, None), (0.3, 1), (0.0, 2), (0.5, 3)])
def test_equals_the_net_that_takes_all_steps_at_once(ps: float, t: int | None, merge: str) -> None:
    loop, whole = twins(ps=ps, t=t)
    loop.dstsp.merge = whole.dstsp.merge = merge
    x = frames(seed=1)
    with torch.no_grad():
        torch.testing.assert_close(loop(x), whole(x), atol=1e-5, rtol=1e-4)
        assert loop(x).abs().sum() > 0
        assert loop(x).shape[0] == (t or 4)


def test_gradients_equal_those_of_the_net_that_takes_all_steps_at_once() -> None:
    loop, whole = twins(ps=0.3, t=2)
    x = frames(seed=1)
    for net in (loop, whole):
        net.train()(x).square().sum().backward()
    for name, weight in whole.named_parameters():
        if "lif" not in name:
            torch.testing.assert_close(loop.get_parameter(name).grad, weight.grad, atol=1e-4, rtol=1e-3, msg=name)
    assert whole.get_parameter("patch.weight").grad.abs().sum() > 0


def test_own_loop_over_an_attribute_runs_the_kept_steps_alone() -> None:
    net, calls = made(OwnLoop, ps=0.3, t=1), []
    net.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert net(frames()[0]).shape == (1, 2, 10)
    assert len(calls) == 1
    assert net.num_steps == 4
    assert dstsp.summary(net).steps == (4, 1)


def test_other_numbers_of_steps_than_the_example_had():
    net, whole = twins(ps=0.3, t=4)  # the example has four
    x = frames(steps=6, seed=1)
    with torch.no_grad():
        assert net(x).shape[0] == 4
        torch.testing.assert_close(net(x), whole(x), atol=1e-5, rtol=1e-4)
        with pytest.raises(LayoutError, match="first argument"):
            net(x=x)
    own = made(OwnLoop, ps=0.3, t=4)
    own.num_steps = 6
    with torch.no_grad():
        assert own(frames()[0]).shape[0] == 4
    assert own.num_steps == 6


def test_own_loop_over_a_literal_refuses_t_and_says_what_would() -> None:
    class Literal(OwnLoop):
        def forward(self, x: Tensor) -> Tensor:
            reset(self)
            return torch.stack([Step.forward(self, x) for _ in range(4)])

    with pytest.raises(SettingError, match="Keep that number in an attribute"):
        dstsp.wrap(Literal(num_steps=7).eval(), ps=0.3, t=1, example_input=frames()[0])
    net = dstsp.wrap(Literal(num_steps=7).eval(), ps=0.3, t=None, example_input=frames()[0])
    with pytest.raises(SettingError, match="no step"):
        net.dstsp.t = 1
    assert net(frames()[0]).shape == (4, 2, 10)


def test_callers_loop_keeps_the_tokens_of_the_first_step_until_the_reset() -> None:
    net, seen = made(Step, ps=0.3, t=None), []
    net.blocks[0].register_forward_pre_hook(lambda _m, args: seen.append(net.dstsp.current.kept.tokens))
    x, other = frames(), frames(seed=5)
    with torch.no_grad():
        in_a_loop(net, x)
        utils.reset(net)
        in_a_loop(net, other)
    assert all(torch.equal(seen[0], one) for one in seen[:4])
    assert all(torch.equal(seen[4], one) for one in seen[4:])
    assert not torch.equal(seen[0], seen[4])
    assert seen[0].shape == (2, 17)


@pytest.mark.parametrize(
    "new_sequence", [reset, utils.reset, lambda net: [m.reset_mem() for m in net.modules() if isinstance(m, snn.Leaky)]]
)
def test_any_reset_starts_a_sequence(new_sequence: object) -> None:
    net, x = made(Step, ps=0.3, t=None), frames()
    with torch.no_grad():
        before = in_a_loop(net, x)
        new_sequence(net)
        in_a_loop(net, frames(seed=3))
        new_sequence(net)
        assert torch.equal(in_a_loop(net, x), before)


def test_steps_tells_a_callers_loop_what_to_run() -> None:
    net, whole = made(Step, ps=0.3, t=2), made(AllSteps, ps=0.3, t=2)
    whole.load_state_dict(
        {
            **whole.state_dict(),
            **{k: v for k, v in net.state_dict().items() if "lif" not in k and k in whole.state_dict()},
        }
    )
    x = frames(samples=1, seed=2)  # one sample: a batch shares its steps in a loop
    with torch.no_grad():
        steps = dstsp.steps(net, x)
        assert len(steps) == 2
        torch.testing.assert_close(in_a_loop(net, x, steps), whole(x), atol=1e-5, rtol=1e-4)
        with pytest.raises(SettingError, match="have run"):
            net(x[0])
        reset(net)
        assert len(dstsp.steps(net, x[0], num_steps=3)) == 2


def test_t_in_a_callers_loop_is_never_accepted_in_silence() -> None:
    net = made(Step, ps=0.3, t=1)
    with pytest.raises(SettingError, match=r"dstsp\.steps"), torch.no_grad():
        net(frames()[0])
    net.dstsp.t = 3
    with pytest.raises(SettingError, match=r"outside 1\.\.2"):
        dstsp.steps(net, frames()[:2])
    with pytest.raises(SettingError, match="loops by itself"):
        dstsp.steps(made(OwnLoop, ps=0.3, t=1), frames())


def test_a_sequence_that_is_half_reset_is_refused_by_name() -> None:
    net = made(Step, ps=0.3, t=None)
    with torch.no_grad():
        net(frames()[0])
        net.blocks[0].fc1_lif.reset_mem()
        with pytest.raises(SettingError, match=r"blocks\.0\.fc1_lif was reset"):
            net(frames()[1])
        reset(net)
        net(frames()[0])
        with pytest.raises(LayoutError, match="in the middle of a sequence"):
            net(frames(samples=3)[1])


@pytest.mark.parametrize("kind", [OwnLoop, OverFrames, Step])
def test_unwrap_copies_and_pickles_are_exact(kind: type) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    x = frames() if kind is OverFrames else frames()[0]
    with torch.no_grad():
        reset(model)
        before = model(x)
        reset(model)
        dstsp.wrap(model, ps=0.3, t=None, example_input=x)
        pruned = model(x)
        reset(model)
        assert not torch.equal(pruned, before)
        assert torch.equal(copy.deepcopy(model)(x), pruned)
        dstsp.unwrap(model)
        reset(model)
        assert torch.equal(model(x), before)


def test_looking_ahead_leaves_batch_statistics_and_generators_alone() -> None:
    class WithNorm(OverFrames):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Sequential(self.patch, nn.BatchNorm2d(32))

    torch.manual_seed(0)
    net = dstsp.wrap(WithNorm(), ps=0.3, t=None, example_input=frames())
    norm, plain = net.patch[1], copy.deepcopy(net)
    plain.dstsp.active = "never"
    state = torch.get_rng_state()
    net(frames())
    assert torch.equal(state, torch.get_rng_state())
    plain(frames())
    assert int(norm.num_batches_tracked) == int(plain.patch[1].num_batches_tracked) == 4
    assert torch.equal(norm.running_mean, plain.patch[1].running_mean)


def test_a_sample_alone_gives_what_it_gives_in_a_batch() -> None:
    net, x = made(OverFrames, ps=0.3, t=2), frames()
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:, :1], net(x[:, :1]), atol=1e-6, rtol=1e-5)


def one_step(threshold: float = 0.1) -> nn.Module:
    """A neuron that can be pickled; the surrogates of snnTorch are closures."""
    return LIF(0.5, threshold=threshold, step_mode="s")


def test_pickle() -> None:
    torch.manual_seed(0)
    net, x = Step(neuron=one_step).eval(), frames()
    with torch.no_grad():
        dstsp.wrap(net, ps=0.3, t=None, example_input=x[0])
        twin = pickle.loads(pickle.dumps(net))
        assert torch.equal(in_a_loop(twin, x), in_a_loop(net, x))
