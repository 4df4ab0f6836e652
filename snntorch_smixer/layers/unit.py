"""The one unit that stem, mixer and MLP are built from: neuron, linear map, BatchNorm."""

from __future__ import annotations

from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.neurons import cap_spikes, check_multi_step


class Unit(nn.Module):
    """``BN(linear(SN(x)))``: the seam at which faster kernels replace the plain computation.

    Args:
        linear: ``nn.Linear`` on tokens ``(..., N, C)``, or ``nn.Conv2d`` on maps ``(T, B, C, H, W)``.
        neuron: spiking neuron in front of the map, or None where the input is not spiking yet.
    """

    def __init__(self, linear: nn.Linear | nn.Conv2d, neuron: nn.Module | None) -> None:
        super().__init__()
        check_multi_step("Unit", neuron)
        self.neuron = neuron
        self.linear = linear
        self.takes_maps = isinstance(linear, nn.Conv2d)  # an adapter in the place of ``linear`` does not tell
        self.norm: nn.Module
        if isinstance(linear, nn.Conv2d):
            self.norm = nn.BatchNorm2d(linear.out_channels)
        else:
            self.norm = nn.BatchNorm1d(linear.out_features)

    def forward(self, x: Tensor, spike_cap: int | None = None) -> Tensor:
        """Same leading axes in and out; ``spike_cap`` limits the spikes of each neuron over the steps."""
        return self.apply_linear(fire(self.neuron, x, spike_cap))

    def apply_linear(self, spikes: Tensor) -> Tensor:
        """The map and its normalisation, on spikes that were computed before."""
        if self.takes_maps:
            y = self.norm(self.linear(shapes.fold_steps(spikes)))
            return shapes.unfold_steps(y, spikes.shape[0])
        y = self.linear(spikes)
        return self.norm(y.flatten(0, -2)).view_as(y)


def fire(neuron: nn.Module | None, x: Tensor, spike_cap: int | None = None) -> Tensor:
    """Spikes of ``neuron``, at most ``spike_cap`` for each neuron over the steps; ``x`` itself without a neuron."""
    spikes = x if neuron is None else neuron(x)
    return spikes if spike_cap is None else cap_spikes(spikes, spike_cap)
