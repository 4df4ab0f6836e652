"""`fit` writes a card of what it trained on, in the place of what the weights were trained on before."""

import pytest
import torch

from snntorch_smixer import Card, SMixerConfig, SMixerNet
from snntorch_smixer.train.data import ImageData
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe

pytest.importorskip("accelerate")


def test_a_trained_network_is_described_by_its_data(tmp_path):
    split = torch.randint(0, 255, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6) % 3
    data = ImageData(split, split, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("cat", "dog", "eel"))
    net = SMixerNet(SMixerConfig((16, 16), 3, 3, 2, dim=16, depth=1, heads=2, strides=(1, 2, 1, 2, 1)))
    net.card = Card("old", "Of bags.", "MIT", 2, 0.0, 2, (3, 16, 16), dataset="bags", classes=("a", "b", "c"))
    fit(net, Recipe(epochs=1, batch_size=3), data=data, out=tmp_path / "run", progress=False)
    card = net.save_pretrained(tmp_path / "saved")
    assert (card.name, card.classes, card.dataset, card.license) == ("run", ("cat", "dog", "eel"), "", "")
    assert (card.mean, card.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with torch.no_grad():
        net.head.linear.bias += 1
    assert net.save_pretrained(tmp_path / "later").classes == ()
