"""Spiking detectors with SMixer blocks and DSTSP.

What needs ultralytics (AGPL-3.0) is imported when it is asked for, and by nothing else.
"""

from typing import Any

from snntorch_smixer.detect.data import BoxData as BoxData
from snntorch_smixer.detect.data import BoxFolder as BoxFolder
from snntorch_smixer.detect.detector import DetectorConfig as DetectorConfig
from snntorch_smixer.detect.detector import SpikingDetector as SpikingDetector
from snntorch_smixer.detect.detector import from_ultralytics as from_ultralytics
from snntorch_smixer.detect.head import SpikingHead as SpikingHead
from snntorch_smixer.detect.head import detections as detections
from snntorch_smixer.detect.rows import SpikingPyramid as SpikingPyramid
from snntorch_smixer.detect.rows import config_path as config_path

_OF_ULTRALYTICS = ("SpikeYOLO", "register", "unregister")

__all__ = [
    "BoxData",
    "BoxFolder",
    "DetectorConfig",
    "SpikeYOLO",
    "SpikingDetector",
    "SpikingHead",
    "SpikingPyramid",
    "config_path",
    "detections",
    "from_ultralytics",
    "register",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name in _OF_ULTRALYTICS:
        from snntorch_smixer.detect import yolo

        return getattr(yolo, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
