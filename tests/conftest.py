"""The environment of every test: offline, headless, seeded, and no state carried over."""

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

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from snntorch import SpikingNeuron  # noqa: E402

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Seed torch before each test, and empty snnTorch's list of all neurons after it."""
    torch.manual_seed(0)
    yield
    SpikingNeuron.instances.clear()
