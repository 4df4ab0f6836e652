"""What ``smixer recover`` does behind its arguments."""

import gzip

import numpy as np
import pytest
import torch

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.cli.recovery import prune, recover, search
from snntorch_smixer.errors import FamilyError, SettingError


@pytest.fixture
def data(tmp_path):
    """A Fashion-MNIST of the first 40 shipped test images, for training and test."""
    shipped = np.load("examples/data/fashion_mnist_test_1000.npz")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images, labels = shipped["images"][:40], shipped["labels"][:40].astype(np.uint8)
        for name, array, kind in (("images-idx3", images, 3), ("labels-idx1", labels, 1)):
            head = bytes([0, 0, 8, kind]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return tmp_path


def test_a_recovered_net_is_saved_and_loads(data, tmp_path):
    net = prune(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1)
    report = recover(net, data, out=tmp_path / "out", stages="statistics, head")
    assert (report.metric, report.samples) == ("accuracy", 40)
    loaded, x = from_pretrained(str(tmp_path / "out")), torch.rand(4, 1, 28, 28)
    assert (loaded.dstsp.ps, loaded.dstsp.t) == (0.3, 1)
    assert torch.equal(loaded.eval()(x), net.eval()(x))
    assert not torch.equal(net(x), dstsp.unwrap(net)(x))


def test_an_unknown_stage_is_refused(data, tmp_path):
    net = prune(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1)
    with pytest.raises(SettingError, match="stages="):
        recover(net, data, out=tmp_path / "out", stages="statistics,magic")
    assert not (tmp_path / "out").exists()


def test_a_net_that_was_trained_with_pruning_is_refused():
    with pytest.raises(FamilyError, match="trained with pruning"):
        prune(from_pretrained("smixer-2-64-fmnist-dstsp"), ps=0.3, t=1)


def test_a_search_judges_by_the_labels(data):
    net = from_pretrained("smixer-2-64-fmnist")
    found = search(net, data, budget="macs<=70%")
    assert found.metric == "accuracy"
    assert net.dstsp.settings == found.chosen.settings
    assert found.chosen.quality > 0.5
