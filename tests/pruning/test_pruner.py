"""DSTSP as a module: order of the two prunings, what is returned, when it acts, and its settings."""

from itertools import product

import pytest
import torch
from torch import nn

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.pruning.pruner import ACTIVE, DSTSP, DSTSPConfig
from snntorch_smixer.pruning.rates import Schedule
from snntorch_smixer.pruning.siv import RANKINGS
from snntorch_smixer.pruning.softmatch import MERGES, merge_dropped
from snntorch_smixer.selection import W_PRIMES, take_steps, take_tokens


def pruner(**settings: object) -> DSTSP:
    return DSTSP(DSTSPConfig(**settings))


def random_tokens(steps: int = 4, batch: int = 3, tokens: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Real-valued tokens, and spikes whose rate differs between steps and tokens."""
    x = torch.randn(steps, batch, tokens, 6)
    rates = torch.rand(steps, batch, 1, 1) * torch.rand(steps, batch, tokens, 1)
    spikes = (torch.rand(steps, batch, tokens, 30) < rates).float()
    assert spikes.mean() > 0.1
    return x, spikes


def test_defaults_are_those_of_the_paper():
    assert DSTSP().settings == DSTSPConfig(0.3, 1, "softmatch", "low", "gather", None, "both")


# Step 0 has 5 spikes, all in token 0; step 1 has 6, in tokens 1 and 2. Over both steps token 0 leads with 5.
ONE_SAMPLE = torch.tensor([[5, 0, 0], [0, 3, 3]])


def test_steps_are_chosen_first_and_tokens_on_the_kept_steps_only():
    spikes = (torch.arange(6) < ONE_SAMPLE[:, None, :, None]).float()
    x = torch.randn(2, 1, 3, 4)
    y, kept = pruner(ps=0.6, t=1, merge="drop")(x, spikes)
    assert (kept.steps.tolist(), kept.tokens.tolist()) == ([[1]], [[1]])
    assert torch.equal(y, x[1:, :, 1:2])
    _, kept = pruner(ps=0.6, t=2, merge="drop")(x, spikes)
    assert (kept.steps.tolist(), kept.tokens.tolist()) == ([[0, 1]], [[0]])


def test_all_kept_steps_share_the_tokens():
    x, spikes = random_tokens()
    y, kept = pruner(ps=0.4, t=3, merge="drop")(x, spikes)
    assert y.shape == (3, 3, 6, 6)
    assert (kept.num_steps, kept.num_tokens, kept.full_steps, kept.full_tokens) == (3, 6, 4, 10)
    for b in range(3):
        assert torch.equal(y[:, b], x[kept.steps[b], b][:, kept.tokens[b]])
    assert len(kept.steps.unique(dim=0)) > 1
    assert len(kept.tokens.unique(dim=0)) == 3


def test_tokens_are_in_position_order_and_in_rank_order_for_crop():
    x, spikes = random_tokens()
    _, gathered = pruner(ps=0.4, t=2)(x, spikes)
    y, cropped = pruner(ps=0.4, t=2, w_prime="crop", merge="drop")(x, spikes)
    counts = take_steps(spikes, cropped.steps).sum((0, 3)).gather(1, cropped.tokens)
    assert torch.equal(counts, counts.sort(dim=1, descending=True).values)
    assert torch.equal(cropped.tokens.sort(dim=1).values, gathered.tokens)
    assert not torch.equal(cropped.tokens, gathered.tokens)
    assert torch.equal(y, take_tokens(take_steps(x, cropped.steps), cropped.tokens))


def test_only_steps():
    x, spikes = random_tokens()
    y, kept = pruner(ps=0, t=2, w_prime="crop")(x, spikes)
    assert not kept.drops_tokens
    assert kept.tokens.tolist() == [list(range(10))] * 3
    assert torch.equal(y, take_steps(x, kept.steps))


@pytest.mark.parametrize("t", [None, 4])
def test_only_tokens(t):
    x, spikes = random_tokens()
    y, kept = pruner(ps=0.3, t=t, merge="sum")(x, spikes)
    assert kept.steps.tolist() == [[0, 1, 2, 3]] * 3
    assert torch.equal(y, merge_dropped(x, kept, "sum"))
    assert not torch.equal(y, merge_dropped(x, kept, "drop"))


@pytest.mark.parametrize("settings", [{"ps": 0, "t": 4}, {"ps": 0, "t": None}, {"ps": 0.04, "t": 4}])
def test_nothing_to_do_returns_the_input_itself(settings):
    x, spikes = random_tokens()
    y, kept = pruner(**settings)(x, spikes)
    assert y is x
    assert kept is None


@pytest.mark.parametrize("settings", [{"ps": 0, "t": None}, {"active": "never"}])
def test_what_does_not_prune_draws_nothing(settings):
    x, spikes = random_tokens()
    before = torch.get_rng_state()
    assert pruner(ranking="random", **settings)(x, spikes)[1] is None
    assert torch.equal(torch.get_rng_state(), before)
    assert pruner(ranking="random")(x, spikes)[1] is not None
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_spike_cap_alone_travels_with_the_whole():
    x, spikes = random_tokens()
    y, kept = pruner(ps=0, t=None, spike_cap=2)(x, spikes)
    assert y is x
    assert (kept.spike_cap, kept.drops_tokens, kept.num_steps) == (2, False, 4)


def test_fuse_adds_one_last_token():
    x, spikes = random_tokens()
    y, kept = pruner(ps=0.4, t=1, merge="fuse")(x, spikes)
    assert (kept.fused, kept.num_tokens, y.shape[2]) == (True, 7, 7)
    lost = take_tokens(take_steps(x, kept.steps), kept.dropped())
    torch.testing.assert_close(y[:, :, 6], lost.mean(2))


@pytest.mark.parametrize(("merge", "rows"), [("softmatch", 6), ("fuse", 7)])
def test_shared_rows_are_drawn_in_training_only(merge, rows):
    x, spikes = random_tokens()
    module = pruner(ps=0.4, t=1, w_prime="shared", merge=merge)
    draws = [module(x, spikes)[1].rows.tolist() for _ in range(10)]
    for drawn in draws:
        assert drawn == sorted(set(drawn))
        assert len(drawn) == rows
        assert set(drawn) <= set(range(10))
    assert len({tuple(drawn) for drawn in draws}) > 1
    assert module.eval()(x, spikes)[1].rows is None
    assert pruner(ps=0.4, t=1, w_prime="gather")(x, spikes)[1].rows is None


@pytest.mark.parametrize(("merge", "w_prime", "ranking"), [*product(MERGES, W_PRIMES, RANKINGS)])
def test_a_sample_alone_is_the_sample_in_a_batch(merge, w_prime, ranking):
    x, spikes = random_tokens(batch=5)
    module = pruner(ps=0.4, t=2, merge=merge, w_prime=w_prime, ranking=ranking).eval()
    torch.manual_seed(1)
    together, kept = module(x, spikes)
    for b in range(5):
        torch.manual_seed(1)
        alone, mine = module(x[:, [b]], spikes[:, [b]])
        assert torch.equal(mine.steps, kept.steps[[b]])
        assert torch.equal(mine.tokens, kept.tokens[[b]])
        torch.testing.assert_close(alone, together[:, [b]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("merge", MERGES)
def test_gradients_flow_through_the_tokens_and_not_through_the_ranking(merge):
    x, spikes = random_tokens()
    x.requires_grad_()
    y, kept = pruner(ps=0.4, t=2, merge=merge)(x, spikes.requires_grad_())
    y.sum().backward()
    on_steps = take_steps(x.grad, kept.steps)
    assert take_tokens(on_steps, kept.tokens).all()
    assert bool(take_tokens(on_steps, kept.dropped()).any()) == (merge != "drop")
    assert torch.count_nonzero(x.grad) == torch.count_nonzero(on_steps)
    assert spikes.grad is None


@pytest.mark.parametrize(
    ("active", "in_training", "in_evaluation"),
    [("both", True, True), ("train", True, False), ("eval", False, True), ("never", False, False)],
)
def test_active(active, in_training, in_evaluation):
    x, spikes = random_tokens()
    module = pruner(active=active)
    assert (module.is_active(), module.eval().is_active()) == (in_training, in_evaluation)
    for mode, prunes in ((True, in_training), (False, in_evaluation)):
        y, kept = module.train(mode)(x, spikes)
        assert y.shape[2] == (7 if prunes else 10)
        assert (y is x) == (kept is None) == (not prunes)


def test_settings_are_live():
    x, spikes = random_tokens()
    module = pruner()
    assert module(x, spikes)[0].shape == (1, 3, 7, 6)
    module.ps, module.t = 0.5, 3
    assert module(x, spikes)[0].shape == (3, 3, 5, 6)
    module.merge, module.w_prime, module.ranking, module.spike_cap = "fuse", "crop", "high", 2
    y, kept = module(x, spikes)
    assert (y.shape[2], kept.fused, kept.w_prime, kept.spike_cap) == (6, True, "crop", 2)
    module.active = "never"
    assert module(x, spikes)[1] is None
    assert module.settings == DSTSPConfig(0.5, 3, "fuse", "high", "crop", 2, "never")


OUTSIDE = "DSTSP: {name}={value!r} must be a whole number of at least 1, or None for no limit."
SHARE = "DSSP: ps={value!r} is outside [0, 1). Pass the share of tokens to drop, for example 0.3."
CHOICE = "DSTSP: {name}={value!r} is unknown. Expected one of {choices}. Pass one of these."
BAD = [
    *(("ps", value, SHARE) for value in (1.0, 1, 1.2, -0.1, float("nan"), "0.3", None, True)),
    *((name, value, OUTSIDE) for name in ("t", "spike_cap") for value in (0, -1, 1.0, "1", True, False)),
    *(("merge", value, CHOICE) for value in ("mean", None, "Softmatch")),
    *((name, "x", CHOICE) for name in ("ranking", "w_prime", "active")),
]
CHOICES = {"merge": MERGES, "ranking": RANKINGS, "w_prime": W_PRIMES, "active": ACTIVE}


@pytest.mark.parametrize(("name", "value", "text"), BAD)
def test_bad_settings_are_refused_and_change_nothing(name, value, text):
    expected = text.format(name=name, value=value, choices=", ".join(CHOICES.get(name, ())))
    with pytest.raises(SettingError) as caught:
        DSTSPConfig(**{name: value})
    assert str(caught.value) == expected
    module = pruner(ps=0.25, t=2)
    with pytest.raises(SettingError) as caught:
        setattr(module, name, value)
    assert str(caught.value) == expected
    assert module.settings == DSTSPConfig(ps=0.25, t=2)


def test_more_steps_than_arrive_are_refused():
    x, spikes = random_tokens()
    with pytest.raises(SettingError, match=r"^DSTP: t=5 is outside 1..4, the steps that arrive. Keep fewer"):
        pruner(t=5)(x, spikes)


def test_other_layouts_are_refused():
    x, spikes = random_tokens()
    with pytest.raises(LayoutError) as caught:
        DSTSP()(x[0], spikes[0])
    assert str(caught.value) == (
        "DSTSP: expected tokens (T, B, N, C), got shape (3, 10, 6); did you forget the time axis?"
    )
    with pytest.raises(LayoutError) as caught:
        DSTSP()(x, spikes[:, :, :9])
    assert str(caught.value) == "DSTSP: tokens (4, 3, 10, 6) and spikes (4, 3, 9, 30) differ in T, B or N."


def test_no_parameters_no_buffers_and_no_keys():
    module = pruner(spike_cap=2)
    assert [*module.parameters()] == [*module.buffers()] == []
    plain, pruned = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3), module)
    assert plain.state_dict().keys() == pruned.state_dict().keys()


def test_printing_shows_every_setting():
    assert repr(pruner(ps=0.25, t=None, spike_cap=3)) == (
        "DSTSP(ps=0.25, t=None, merge=softmatch, ranking=low, w_prime=gather, spike_cap=3, active=both, place=stem)"
    )


@pytest.mark.parametrize("active", ["train", "eval"])
def test_crop_in_one_mode_only_is_refused(active):
    with pytest.raises(SettingError) as caught:
        DSTSPConfig(w_prime="crop", active=active)
    assert str(caught.value) == (
        "DSTSP: w_prime='crop' gives W_M another meaning (row i is the i-th busiest token), so it cannot be "
        f"active={active!r} only. Pass active='both', or w_prime='gather'."
    )


class OnAGrid(DSTSP):
    keeps_grid = True


def test_on_a_grid_every_block_chooses_among_all_tokens():
    dstsp = OnAGrid(DSTSPConfig(ps=(0.5, 0.25), t=None), depth=2)
    first = torch.tensor([1.0, 0, 2, 0, 3, 0, 4, 0]).view(1, 1, 8, 1).expand(1, 2, 8, 4)
    second = torch.tensor([1.0, 9, 0, 8, 7, 6, 5, 0]).view(1, 1, 8, 1).expand(1, 2, 8, 4)
    x = torch.rand(1, 2, 8, 4)
    same, kept = dstsp(x, first, None, 0)
    assert same is x, "dropped tokens keep their place"
    assert kept.tokens.tolist() == [[0, 2, 4, 6]] * 2
    same, kept = dstsp(x, second, kept, 1)
    assert same is x
    assert kept.tokens.tolist() == [[0, 1, 3, 4, 5, 6]] * 2, "more than before, and others"
    assert kept.full_tokens == 8


def test_a_schedule_reaches_its_last_rate_in_the_last_block():
    dstsp = DSTSP(DSTSPConfig(ps=Schedule(0.0, 0.75), t=None), depth=4)
    assert [dstsp.tokens_left(16, block) for block in range(4)] == [16, 12, 8, 4]
    assert DSTSP(DSTSPConfig(ps=Schedule(0.5, 0.5)), depth=1).tokens_left(16, 0) == 8
