"""The transformers of SpikingJelly 2, tiny, with the interface of the stand-ins; they need SpikingJelly to be built."""

from functools import partial
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor, nn

from tests.fakes.calibrate import images
from tests.fakes.zoo import Fake, paths

INSTALLED = find_spec("spikingjelly") is not None


def _make(module: str, name: str, **sizes: object) -> nn.Module:
    return getattr(import_module(f"spikingjelly.activation_based.model.{module}"), name)(num_classes=5, **sizes)


def _mean_over_time(out: object) -> Tensor:
    return out.mean(0)


_ALL = (
    Fake(
        "sj_spikformer",
        partial(
            _make,
            *("spikformer", "Spikformer"),
            **{"img_size_h": 16, "img_size_w": 16, "patch_size": 4, "embed_dims": 32, "num_heads": 4, "depths": 2},
        ),
        images,
        "spikformer",
        (16, 16),
        paths("blocks.{}.attn", 0, 1),
        logits=_mean_over_time,
    ),
    Fake(
        "sj_qkformer",
        partial(_make, "qkformer", "QKFormer", embed_dims=64, num_heads=(2, 4, 4), depths=(1, 1, 2), mlp_ratio=2),
        partial(images, size=64),
        "qkformer",
        (16, 16),
        paths("stage3.{}.attn", 0, 1),
        ("stage1.0.attn", "stage2.0.attn"),
    ),
    Fake(
        "sj_sdt",
        partial(_make, "spike_driven_transformer", "SpikeDrivenTransformer", embed_dims=64, depths=2, mlp_ratio=2),
        partial(images, size=64),
        "sdt_v1",
        (16, 16),
        linear_paths=paths("blocks.{}.attn", 0, 1),
        drive=0.2,
    ),
    Fake(
        "sj_maxformer",
        partial(_make, "maxformer", "MaxFormer", embed_dims=128, depths=(1, 1, 1), mlp_ratio=2),
        partial(images, size=64),
        "qkformer",
        (16,),
        paths("stage3.{}.attn", 0),
        drive=0.2,
    ),
    Fake(
        "sj_maxformer_cifar",
        partial(_make, "maxformer", "MaxFormer", embed_dims=128, depths=(1, 1, 1), mlp_ratio=2, cifar=True),
        images,
        "qkformer",
        (16,),
        paths("stage3.{}.attn", 0),
        drive=0.3,
    ),
)
SPIKINGJELLY = {fake.name: fake for fake in _ALL}
