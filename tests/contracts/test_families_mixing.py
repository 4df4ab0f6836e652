"""Inside a wrapped model: ``W_M'`` belongs to the kept tokens, heads are the model's own, dropped tokens stay put."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.patching.modules import TokenMixing
from tests.fakes.wrapped import BATCH_DEPENDENT, MODELS, SWAPPED, Calls, each, logits, wrapped
from tests.fakes.zoo import Fake

SQUARE = each(
    name for name, fake in MODELS.items() if (fake.attention_paths or fake.mixer_paths) and name != "strided_keys"
)
# The module behind the product that reads the channels of all heads, in the attention.
READERS = {
    **dict.fromkeys(MODELS, "proj_conv"),
    **{"spikformer_cifar": "proj_linear", "root_attention": "out", "einsum": "roles.3", "strided_keys": "back"},
    **{"one_big_block": "spark_c", "sj_spikformer": "proj_conv_bn", "sj_qkformer": "proj_conv_bn"},
    **{"sj_maxformer": "proj_conv_bn", "sj_maxformer_cifar": "proj", "stmixer": "mixer"},
}


def mixers(model: nn.Module) -> list[TokenMixing]:
    found = [module for module in model.modules() if isinstance(module, TokenMixing)]
    assert found, "nothing was swapped"
    return found


@SQUARE
def test_kept_tokens_are_mixed_by_their_rows_and_columns(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    model.dstsp.ps, model.dstsp.t = 0.4, 2
    steps = 1 if model.dstsp.plan.levels else 2
    for mixer in mixers(model):
        with Calls(mixer) as calls, Calls(model.dstsp) as chosen:
            logits(fake, model, x)
        kept, heads = chosen.outs[-1][1].tokens, mixer.w_m.groups
        value = mixer.value_layout.to_tokens(calls.args[0][0], {"t": steps, "g": heads})
        mixed = mixer.out_layout.to_tokens(calls.outs[0], {"t": steps, "g": heads})
        assert value.any()
        whole = value.shape[2] == 16
        matrices = mixer.w_m.weight.view(heads, 16, 16)
        for sample, tokens in enumerate(kept):
            v = value[:, sample, tokens] if whole else value[:, sample]
            parts = v.unflatten(-1, (heads, -1))
            expected = torch.stack([m[tokens][:, tokens] @ parts[:, :, h] for h, m in enumerate(matrices)], 2)
            got = mixed[:, sample, tokens] if whole else mixed[:, sample]
            assert torch.allclose(got, expected.flatten(2), atol=1e-4)
            if whole:
                assert mixed[:, sample].count_nonzero() == got.count_nonzero()


@SWAPPED
def test_a_head_of_w_m_reaches_the_channels_of_that_head_alone(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    model.dstsp.active = "never"
    path = fake.sites[0]
    mixer, reader = model.get_submodule(f"{path}.mixer"), model.get_submodule(f"{path}.{READERS[fake.name]}")
    with torch.no_grad():
        mixer.w_m.weight.abs_()
    heads, results = mixer.w_m.groups, []
    for head in (None, 1):
        if head is not None:
            with torch.no_grad():
                mixer.w_m.weight.unflatten(0, (heads, -1))[head] = 0
        with Calls(reader) as calls:
            logits(fake, model, x)
        read = calls.outs[0] if fake.name == "stmixer" else calls.args[0][0]
        results.append(channels_that_fire(fake, read))
    before, after = results
    width = len(before) // heads
    silent = [c % heads == 1 if fake.name == "einsum" else c // width == 1 for c in range(len(before))]
    assert (before & torch.tensor(silent)).any()
    assert torch.equal(after, before & ~torch.tensor(silent))


def channels_that_fire(fake: Fake, x: Tensor) -> Tensor:
    """Which channels are not zero everywhere; the channels are the one axis that is no other size of the model."""
    widths = {"sdt_v3": 96, "sdt_v3_large": 48, "qkformer": 40, "qkformer_dvs": 40, "sj_maxformer": 128}
    widths |= {"sj_maxformer_cifar": 128, "sj_qkformer": 64, "sj_spikformer": 32}
    (axis,) = [i for i, size in enumerate(x.shape) if size == widths.get(fake.name, 24)]
    return x.transpose(0, axis).flatten(1).any(1)


@SQUARE
def test_the_identity_as_w_m_gives_v(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    for mixer in mixers(model):
        with torch.no_grad():
            mixer.w_m.weight.copy_(torch.eye(16).repeat(mixer.w_m.groups, 1)[..., None])
    for active in ("never", "both"):
        model.dstsp.active = active
        with Calls(mixers(model)[0]) as calls:
            logits(fake, model, x)
        value, mixed = calls.args[0][0], calls.outs[0]
        assert value.any()
        assert mixed.sum() == (value.sum() if value.numel() == mixed.numel() else mixed.sum())
        assert torch.equal(mixed.flatten().sort().values[-50:], value.flatten().sort().values[-50:])


@each(["sdt_v1_dvs", "sdt_v2", "spikeyolo", "strided_keys"])
def test_dropped_tokens_leave_a_block_as_they_entered(fake: Fake):
    check_dropped(
        fake, {"sdt_v1_dvs": "block.{}", "sdt_v2": "block3.{}", "spikeyolo": "model.{}", "strided_keys": "rungs.{}"}
    )


@each(["sdt_v3"])
def test_dropped_tokens_pass_attention_and_mlp_as_they_are(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    block = model.block3[1]
    with Calls(block) as calls, Calls(block.conv) as convs, Calls(model.dstsp) as chosen:
        logits(fake, model, x)
    before = calls.args[0][0] + convs.outs[0] if False else calls.args[0][0]
    check_kept_change(before + convs.outs[0], calls.outs[0], chosen.outs[-1][1].keep_mask())


def check_dropped(fake: Fake, pattern: dict[str, str]) -> None:
    model, x = wrapped(fake).model, fake.example(batch=3)
    for number in (2, 4) if fake.name == "spikeyolo" else (0, 1):
        block = model.get_submodule(pattern[fake.name].format(number))
        with Calls(block) as calls, Calls(model.dstsp) as chosen:
            logits(fake, model, x)
        out = calls.outs[0][0] if isinstance(calls.outs[0], tuple) else calls.outs[0]
        masks = {kept.full_tokens: kept.keep_mask() for _, kept in chosen.outs}
        check_kept_change(calls.args[0][0], out, masks[out.shape[-1] * out.shape[-2]])


def check_kept_change(before: Tensor, after: Tensor, kept: Tensor) -> None:
    """Maps (..., B, C, H, W): dropped tokens are equal, and almost all kept ones are not."""
    same = (before == after).flatten(-2).all(-2)  # all channels of a token
    same = same.all(0) if same.dim() == 3 else same
    assert not kept.all()
    assert same[~kept].all()
    assert same[kept].float().mean() < 0.1


@each(name for name in MODELS if name not in BATCH_DEPENDENT)
@pytest.mark.parametrize("t", [1, 2])
def test_a_sample_alone_is_as_in_the_batch(fake: Fake, t: int):
    model, x = wrapped(fake).model, fake.example(batch=4)
    model.dstsp.t = t
    together = logits(fake, model, x)
    alone = torch.cat([logits(fake, model, one) for one in x.split(1)])
    assert torch.allclose(alone, together, atol=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(logits(fake, model, x[order]), together[order], atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3
