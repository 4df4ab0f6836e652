"""SMixer and DSTSP for snnTorch: event-driven spiking transformers that are cheap to train."""

from snntorch_smixer import cost as cost
from snntorch_smixer import dstsp as dstsp
from snntorch_smixer.cards.card import Card as Card
from snntorch_smixer.errors import SMixerError as SMixerError
from snntorch_smixer.layers.attention import SpikingSelfAttention as SpikingSelfAttention
from snntorch_smixer.layers.block import EncodingBlock as EncodingBlock
from snntorch_smixer.layers.memory import memory_mode as memory_mode
from snntorch_smixer.layers.memory import set_memory as set_memory
from snntorch_smixer.layers.mixer import SMixer as SMixer
from snntorch_smixer.layers.mixer import SpikingTokenMixer as SpikingTokenMixer
from snntorch_smixer.layers.mlp import SpikingMLP as SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting as SpikingPatchSplitting
from snntorch_smixer.models.config import SMixerConfig as SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet as SMixerNet
from snntorch_smixer.models.transform import create_transform as create_transform
from snntorch_smixer.neurons import LIF as LIF
from snntorch_smixer.neurons import Dspike as Dspike
from snntorch_smixer.neurons import IntegerLIF as IntegerLIF
from snntorch_smixer.neurons import reset as reset
from snntorch_smixer.zoo.hub import create_model as create_model
from snntorch_smixer.zoo.hub import from_pretrained as from_pretrained
from snntorch_smixer.zoo.hub import load_pretrained as load_pretrained
from snntorch_smixer.zoo.registry import is_model as is_model
from snntorch_smixer.zoo.registry import list_models as list_models

__version__ = "0.1.0"

__all__ = [
    "LIF",
    "Card",
    "Dspike",
    "EncodingBlock",
    "IntegerLIF",
    "SMixer",
    "SMixerConfig",
    "SMixerError",
    "SMixerNet",
    "SpikingMLP",
    "SpikingPatchSplitting",
    "SpikingSelfAttention",
    "SpikingTokenMixer",
    "cost",
    "create_model",
    "create_transform",
    "dstsp",
    "from_pretrained",
    "is_model",
    "list_models",
    "load_pretrained",
    "memory_mode",
    "reset",
    "set_memory",
]


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
