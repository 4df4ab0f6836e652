"""The environment of every test: offline, headless, seeded, and no state carried over."""

import json
import os
import tempfile

# Read by the libraries when they are imported, so this comes before the imports below.
_home = tempfile.TemporaryDirectory(prefix="smixer-tests-", ignore_cleanup_errors=True)
os.environ.update(
    HF_HOME=f"{_home.name}/hf",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    MPLCONFIGDIR=f"{_home.name}/matplotlib",
    YOLO_AUTOINSTALL="false",
    YOLO_CONFIG_DIR=f"{_home.name}/yolo",
    YOLO_OFFLINE="1",
    YOLO_VERBOSE="false",
)

from collections.abc import Callable, Iterator  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from snntorch import SpikingNeuron  # noqa: E402
from torch import Tensor, nn  # noqa: E402

torch.set_num_threads(1)  # more threads wait for each other where the cores are busy, and tiny tensors gain nothing


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Seed torch before each test, and empty snnTorch's list of all neurons after it."""
    torch.manual_seed(0)
    yield
    SpikingNeuron.instances.clear()


@pytest.fixture
def firing_net() -> Callable[..., nn.Module]:
    """Makes a tiny SMixerNet, in evaluation mode, whose every neuron layer fires on `images` like the ones below.

    Keywords are fields of SMixerConfig. Untrained networks hardly spike, which makes tests of equality vacuous; here
    BatchNorm takes its statistics from random images, and the threshold is low.
    """
    return _firing_net


def _firing_net(**changes: object) -> nn.Module:
    from snntorch_smixer.models.config import SMixerConfig
    from snntorch_smixer.models.smixer_net import SMixerNet

    tiny = {"img_size": (16, 16), "in_channels": 2, "num_classes": 5, "dim": 16, "depth": 2, "heads": 2}
    config = SMixerConfig(**{**tiny, "threshold": 0.5, **changes})
    net = SMixerNet(config)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, not an exponential one
        nn.init.constant_(norm.weight, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    rates: dict[str, list[float]] = {}
    hooks = [
        module.register_forward_hook(_RecordRate(rates.setdefault(name, [])))
        for name, module in net.named_modules()
        if isinstance(module, SpikingNeuron)
    ]
    with torch.no_grad():
        for _ in range(4):
            net(torch.randn(8, config.in_channels, *config.img_size))
        for recorded in rates.values():
            recorded.clear()
        net.eval()(torch.randn(8, config.in_channels, *config.img_size))
    for hook in hooks:
        hook.remove()
    for norm in norms:
        norm.momentum = 0.1
    silent = [name for name, recorded in rates.items() if not recorded or not 0.02 < recorded[0] < 0.9]
    assert rates, "no neurons found"
    assert not silent, f"these layers do not fire: {silent}"
    return net


class _RecordRate:
    """Forward hook: share of the outputs that are spikes."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates

    def __call__(self, module: nn.Module, args: object, spikes: Tensor) -> None:
        self.rates.append(spikes.count_nonzero().item() / spikes.numel())


@pytest.fixture
def toml_text() -> Callable[[dict[str, object]], str]:
    """Writes a dictionary of numbers, strings, lists and one level of tables as TOML."""
    return _toml_text


def _toml_text(values: dict[str, object]) -> str:
    # JSON writes numbers, strings, booleans and lists as TOML does.
    lines = [f"{k} = {json.dumps(v)}\n" for k, v in values.items() if not isinstance(v, dict)]
    tables = [f"\n[{k}]\n{_toml_text(v)}" for k, v in values.items() if isinstance(v, dict)]
    return "".join(lines + tables)
