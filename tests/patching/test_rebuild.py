"""What is kept instead of tensors: shared, rebuilt bit for bit, and refused where it was written into."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from snntorch_smixer.patching.rebuild import Call, Kept, Remembered, View


def spikes(*shape: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.3).float()


def test_all_views_of_spikes_share_their_bits():
    remembered, x = Remembered(), spikes(4, 8, 8, 16)
    kept = [remembered.keep(view) for view in (x, x.flatten(0, 1), x[1:, :, 2:5], x.transpose(1, 3))]
    assert len({id(one.source) for one in kept}) == 1
    for one, view in zip(kept, (x, x.flatten(0, 1), x[1:, :, 2:5], x.transpose(1, 3)), strict=True):
        assert torch.equal(one.get(), view)
        assert one.get().stride() == view.stride()


def test_nothing_is_kept_alive_by_remembering():
    remembered, x = Remembered(), spikes(4, 1024)
    storage = weakref.ref(x.untyped_storage())
    kept = remembered.keep(x)
    remembered.put(y := torch.randn(4, 1024), Call("c", torch.clone, (Kept(x.clone()),), {}, x))
    del x
    gc.collect()
    assert storage() is None
    assert remembered.find(y)[0]
    assert len(remembered._sources) == 1
    assert torch.equal(kept.get(), spikes(4, 1024))


def test_a_new_tensor_in_the_place_of_a_dead_one_is_looked_at_anew():
    remembered = Remembered()
    for seed in range(20):
        x = spikes(4, 1024, seed=seed)
        assert torch.equal(remembered.keep(x).get(), spikes(4, 1024, seed=seed))
        del x


def test_what_is_written_into_is_looked_at_anew():
    remembered, x = Remembered(), spikes(4, 1024)
    first = remembered.keep(x)
    x[0] = 1 - x[0]
    assert torch.equal(remembered.keep(x).get(), x)
    assert torch.equal(first.get(), spikes(4, 1024))
    x.add_(torch.rand(4, 1024))
    assert isinstance(remembered.keep(x), Kept)


def test_another_dtype_of_one_storage_is_another_tensor():
    remembered, x = Remembered(), spikes(4, 1024)
    remembered.keep(x)
    assert torch.equal(remembered.keep(x.view(torch.int32)).get(), x.view(torch.int32))
    assert torch.equal(remembered.keep(x).get(), x)


@pytest.mark.parametrize(
    "x",
    [
        *(spikes(4, 8), spikes(4, 4096)[:, :8], torch.nn.Parameter(spikes(4, 1024)), spikes(4, 1024).to_sparse()),
        *(torch.zeros(4, 1024, device="meta"), torch.randn(4, 1024, dtype=torch.complex64).conj()),
    ],
    ids=["small", "a small part", "parameter", "sparse", "meta", "conjugated"],
)
def test_what_is_left_as_it_is(x):
    kept = Remembered().keep(x)
    assert isinstance(kept, Kept)
    assert kept.get().shape == x.shape


def test_inference_tensors_are_left_as_they_are():
    with torch.inference_mode():
        x = spikes(4, 1024)
    assert Remembered().keep(x).get().data_ptr() == x.data_ptr()


def test_writing_into_what_is_kept_is_refused_as_autograd_does():
    x = torch.randn(4, 8)
    kept = Kept(x)
    x.add_(1)
    with pytest.raises(RuntimeError) as caught:
        kept.get()
    assert str(caught.value) == (
        "wrapped model: a tensor of shape (4, 8) that the backward pass needs was changed by an inplace operation: it "
        "is at version 1, expected 0. Call backward() first, or clone() what is written into."
    )


class Counted:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 2 + 1


def test_a_chain_is_made_once_where_autograd_saved_its_links():
    remembered, double = Remembered(), Counted()
    x = spikes(4, 1024)
    a = double(x)
    remembered.put(a, Call("a", double, (remembered.keep(x),), {}, x))
    b = double(a)
    remembered.put(b, Call("b", double, (remembered.keep(a),), {}, a))
    kept_a, kept_b = remembered.pack(a), remembered.pack(b)
    double.calls = 0
    for _ in range(2):  # a second backward pass too
        assert torch.equal(kept_b.get(), b)
        assert torch.equal(kept_a.get(), a)
        assert kept_a.source._left is None
    assert double.calls == 4


def test_links_that_autograd_did_not_save_are_not_left():
    remembered, x = Remembered(), spikes(4, 1024)
    a, b = x * 2 + 1, (x * 2 + 1) * 2 + 1
    call = Call("a", Counted(), (remembered.keep(x),), {}, x)
    remembered.put(a, call)
    remembered.put(b, Call("b", Counted(), (remembered.keep(a),), {}, a))
    assert torch.equal(remembered.pack(b).get(), b)
    assert call._left is None


def test_calls_are_made_in_the_precision_of_the_forward_pass():
    weight, x = torch.randn(5, 16), spikes(300, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = F.linear(x, weight)
        call = Call("linear", F.linear, (Kept(x), Kept(weight)), {}, x)
    assert torch.equal(call.whole(), out)
    plain = Call("linear", F.linear, (Kept(x), Kept(weight)), {}, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain.whole().dtype == torch.float32


def test_hooks_give_autograd_the_same_numbers():
    remembered, weight = Remembered(), torch.randn(64, 64, requires_grad=True)
    x = spikes(100, 64)
    (x @ weight).square().sum().backward()
    expected, weight.grad = weight.grad, None
    with torch.autograd.graph.saved_tensors_hooks(remembered.pack, remembered.unpack):
        out = (x @ weight).square().sum()
    assert isinstance(remembered.keep(x), View)
    out.backward()
    assert torch.equal(weight.grad, expected)
