"""What becomes of dropped tokens: each form by hand, and against a loop."""

import pytest
import torch
from torch.nn import functional as F

from snntorch_smixer.errors import SettingError
from snntorch_smixer.pruning.softmatch import MERGES, best_match, merge_dropped
from snntorch_smixer.selection import Selection


def keep(*tokens: list[int], of: int, w_prime: str = "gather") -> Selection:
    steps = torch.zeros(len(tokens), 1, dtype=torch.int64)
    return Selection(steps, torch.tensor(tokens), full_steps=1, full_tokens=of, w_prime=w_prime)


# One step, one sample, five tokens of two channels; kept are 1 (along x) and 3 (along y).
X = torch.tensor([[[[5.0, 1], [2, 0], [9, 0], [0, 4], [1, 2]]]])
KEPT = keep([1, 3], of=5)


def test_each_dropped_token_matches_the_kept_token_of_its_direction():
    # tokens 0 and 2 point along x, token 4 more along y
    assert best_match(X, KEPT).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("merge", "tokens"),
    [
        ("softmatch", [[(2 + 5 + 9) / 3, 1 / 3], [0.5, 3]]),
        ("sum", [[16, 1], [1, 6]]),
        ("drop", [[2, 0], [0, 4]]),
        ("fuse", [[2, 0], [0, 4], [5, 1]]),
    ],
)
def test_by_hand(merge, tokens):
    merged = merge_dropped(X, KEPT, merge)
    assert merged.shape == (1, 1, len(tokens), 2)
    torch.testing.assert_close(merged[0, 0], torch.tensor(tokens, dtype=torch.float32))


def test_softmatch_is_the_default():
    assert torch.equal(merge_dropped(X, KEPT), merge_dropped(X, KEPT, "softmatch"))
    assert MERGES == ("softmatch", "drop", "sum", "fuse")


def test_kept_tokens_stay_in_the_order_of_the_selection():
    ranked = keep([3, 1], of=5, w_prime="crop")
    assert best_match(X, ranked).tolist() == [[1, 1, 0]]
    for merge in ("softmatch", "sum", "drop"):
        assert torch.equal(merge_dropped(X, ranked, merge), merge_dropped(X, KEPT, merge).flip(2))


@pytest.mark.parametrize("merge", MERGES)
def test_nothing_dropped_changes_nothing(merge):
    assert torch.equal(merge_dropped(X, keep([0, 1, 2, 3, 4], of=5), merge), X)


def test_a_tie_goes_to_the_first_kept_token():
    x = torch.tensor([[[[1.0, 1], [1, 0], [0, 1], [0, 0]]]])
    assert best_match(x, keep([1, 2], of=4)).tolist() == [[0, 0]]  # equally near; and silent, near to none
    assert best_match(x, keep([2, 1], of=4, w_prime="crop")).tolist() == [[0, 0]]


def test_kept_twins_tie_whatever_a_product_rounds_to():
    x = torch.rand(1, 1, 1, 300).expand(1, 1, 9, 300) * torch.tensor([1, 3, 0.7, 5, 11, 1.3, 0.1, 2, 1])[:, None]
    assert best_match(x, keep([2, 3, 4, 7], of=9)).tolist() == [[0] * 5]


def test_one_match_for_all_steps():
    # At step 0 the dropped token resembles the first kept one, at step 1 much more strongly the second.
    x = torch.tensor([[[[1.0, 0], [0, 1], [2, 1]]], [[[1.0, 0], [0, 1], [0, 9]]]])
    kept = keep([0, 1], of=3)
    assert best_match(x[:1], kept).tolist() == [[0]]
    assert best_match(x, kept).tolist() == [[1]]
    assert merge_dropped(x, kept, "sum").tolist() == [[[[1, 0], [2, 2]]], [[[1, 0], [0, 10]]]]


def random_case() -> tuple[torch.Tensor, Selection]:
    x = torch.randn(2, 3, 12, 5)
    return x, keep(*([*torch.randperm(12)[:7].sort().values.tolist()] for _ in range(3)), of=12)


def test_a_loop_gives_the_same():
    x, kept = random_case()
    joined = 0
    for sample in range(3):
        tokens, lost = kept.tokens[sample].tolist(), kept.dropped()[sample].tolist()
        groups = [[token] for token in tokens]
        for token in lost:
            features = x[:, sample, token].flatten()
            near = [F.cosine_similarity(features, x[:, sample, k].flatten(), dim=0) for k in tokens]
            groups[near.index(max(near))].append(token)
        joined = max(joined, *(len(group) - 1 for group in groups))
        for place, group in enumerate(groups):
            total = x[:, sample, group].sum(1)
            mean = total / len(group)
            torch.testing.assert_close(merge_dropped(x, kept, "sum")[:, sample, place], total)
            torch.testing.assert_close(merge_dropped(x, kept, "softmatch")[:, sample, place], mean)
        fused = merge_dropped(x, kept, "fuse")[:, sample, -1]
        torch.testing.assert_close(fused, x[:, sample, lost].mean(1))
    assert joined > 1, "no token took in two others; the mean is not tried"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_choose(dtype):
    torch.manual_seed(3)
    x = torch.randn(2, 8, 64, 48).to(dtype)
    kept = keep(*([*range(0, 64, 2)] for _ in range(8)), of=64)
    plain = best_match(x, kept)
    assert len(plain.unique()) > 20
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(best_match(x, kept), plain)


@pytest.mark.parametrize("merge", MERGES)
def test_a_sample_alone_merges_the_same(merge):
    x, kept = random_case()
    together = merge_dropped(x, kept, merge)
    for b in range(3):
        alone = merge_dropped(x[:, [b]], keep(kept.tokens[b].tolist(), of=12), merge)
        torch.testing.assert_close(alone, together[:, [b]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("merge", MERGES)
def test_gradients_flow_to_kept_and_merged_tokens(merge):
    x = X.clone().requires_grad_()
    merge_dropped(x, KEPT, merge).sum().backward()
    per_token = {
        "softmatch": [1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2],
        "sum": [1, 1, 1, 1, 1],
        "drop": [0, 1, 0, 1, 0],
        "fuse": [1 / 3, 1, 1 / 3, 1, 1 / 3],
    }[merge]
    torch.testing.assert_close(x.grad[0, 0], torch.tensor(per_token, dtype=torch.float32)[:, None].expand(5, 2))


def test_an_unknown_merge_is_refused():
    with pytest.raises(SettingError) as caught:
        merge_dropped(X, KEPT, "mean")
    assert str(caught.value) == (
        "merge_dropped: merge='mean' is unknown. Expected one of softmatch, drop, sum, fuse. Pass one of these."
    )
