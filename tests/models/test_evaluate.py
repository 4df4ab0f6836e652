"""Accuracy of classifiers whose answers are known."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import MeasureError
from snntorch_smixer.models.evaluate import Accuracy, accuracy, evaluate


class FirstPixels(nn.Module):
    """The first pixels are the logits. Notes mode, gradients and batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[bool, bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_grad_enabled(), len(x)))
        return x.flatten(1)[:, :3] * self.weight


def test_accuracy_by_hand():
    net = FirstPixels()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    images = F.one_hot(torch.tensor([0, 1, 2, 0, 2, 2, 1]), 64).float().view(7, 1, 8, 8)
    assert accuracy(net, images, labels, batch_size=3) == 5 / 7
    assert net.calls == [(False, False, 3), (False, False, 3), (False, False, 1)]
    assert net.training
    assert accuracy(net.eval(), images, labels) == 5 / 7
    assert not net.training


def test_accuracy_restores_the_mode_when_the_model_fails():
    net = FirstPixels()
    with pytest.raises(RuntimeError, match="size of tensor"):
        accuracy(net, torch.zeros(2, 1, 8, 8), torch.zeros(2, 5))
    assert net.training


class Logits(nn.Module):
    """The input is the logits; frames are averaged over their steps."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 2 else x.mean(0)


def test_top_one_and_top_five_by_hand():
    # Class k has the k-th highest logit in every row.
    logits = torch.arange(8.0, 0.0, -1.0).expand(4, 8)
    found = evaluate(Logits(), [(logits, torch.tensor([0, 4, 5, 7])), (logits[:1], torch.tensor([1]))])
    assert found == Accuracy(correct=1, count=5, correct5=3)
    assert (found.top1, found.top5) == (0.2, 0.6)
    assert found.standard_error == pytest.approx((0.2 * 0.8 / 5) ** 0.5)


def test_no_top_five_for_five_classes():
    found = evaluate(Logits(), [(torch.eye(5), torch.arange(5))])
    assert (found.top1, found.top5) == (1.0, None)


def test_the_lowest_class_wins_a_tie():
    assert evaluate(Logits(), [(torch.zeros(2, 3), torch.tensor([0, 1]))]).correct == 1


def test_frames():
    frames = torch.stack([torch.eye(3), torch.zeros(3, 3)])
    assert evaluate(Logits(), [(frames, torch.tensor([0, 1, 0]))]).top1 == 2 / 3


def test_a_bar_shows_the_inputs(capsys):
    evaluate(Logits(), [(torch.eye(3), torch.arange(3))])
    assert capsys.readouterr().err == ""
    evaluate(Logits(), [(torch.eye(3), torch.arange(3))], progress=3)
    assert "evaluate" in capsys.readouterr().err


def test_the_device_is_where_it_runs():
    net = FirstPixels()
    batch = (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    assert evaluate(net, [batch], device="cpu").correct == 2
    with pytest.raises(RuntimeError):
        evaluate(net, [batch], device="no-such-device")


def test_no_input_is_an_error():
    with pytest.raises(MeasureError, match="got no batches, expected at least one input"):
        evaluate(Logits(), iter(()))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_of_another_data_set(labels):
    with pytest.raises(MeasureError) as caught:
        evaluate(Logits(), [(torch.eye(2, 3), torch.tensor(labels))])
    assert str(caught.value) == (
        f"evaluate: got labels from {labels[0]} to {labels[1]}, the net has 3 classes. Pass the data set that it was "
        "trained on."
    )


class Remembers(nn.Module):
    """Adds up its inputs until it is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | float = 0.0

    def reset(self) -> None:
        self.v = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v + x
        return self.v


def test_membranes_of_one_batch_do_not_reach_the_next():
    net = Remembers()
    net(torch.full((5, 3), 7.0))
    logits = [torch.tensor([[9.0, 0, 0], [0, 9, 0]]), torch.tensor([[0.0, 0, 1]])]
    labels = [torch.tensor([0, 1]), torch.tensor([2])]
    assert evaluate(net, zip(logits, labels, strict=True)).correct == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_get_no_accuracy(value):
    second = torch.eye(3)
    second[1, 2] = value
    labels = torch.arange(3)
    with pytest.raises(MeasureError) as caught:
        evaluate(Logits(), [(torch.eye(3), labels), (second, labels)])
    assert str(caught.value) == (
        "evaluate: got NaN or infinity among the logits of input 4, expected finite values. Check the input and the "
        "weights; the net may have diverged in training."
    )
