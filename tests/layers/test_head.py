"""The classification head."""

import torch

from snntorch_smixer.layers.head import ClassifierHead


def test_mean_over_tokens_then_a_linear_map_for_each_step():
    head, x = ClassifierHead(6, 5), torch.randn(4, 3, 7, 6)
    out = head(x)
    assert out.shape == (4, 3, 5)
    for t in range(4):
        for b in range(3):
            mean = sum(x[t, b, n] for n in range(7)) / 7
            torch.testing.assert_close(out[t, b], head.linear.weight @ mean + head.linear.bias)


def test_any_number_of_steps_and_tokens():
    head, x = ClassifierHead(6, 5), torch.randn(4, 3, 7, 6)
    torch.testing.assert_close(head(x[1:2]), head(x)[1:2])
    torch.testing.assert_close(head(x[:, :, :1]), head(x[:, :, :1].expand(4, 3, 7, 6)))


def test_parameters():
    assert sum(p.numel() for p in ClassifierHead(6, 5).parameters()) == 6 * 5 + 5
