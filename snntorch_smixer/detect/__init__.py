"""Spiking detectors with SMixer blocks and DSTSP; what needs ultralytics (AGPL-3.0) is imported when it is asked for."""

from typing import Any

from snntorch_smixer.detect.backbone import SpikingBackbone as SpikingBackbone
from snntorch_smixer.detect.fcos import FCOSMaps as FCOSMaps
from snntorch_smixer.detect.fcos import SpikingFCOSHead as SpikingFCOSHead
from snntorch_smixer.detect.fcos import spiking_fcos as spiking_fcos
from snntorch_smixer.detect.head import SpikingHead as SpikingHead
from snntorch_smixer.detect.rows import SpikingPyramid as SpikingPyramid

_OF_ULTRALYTICS = ("SpikeYOLO",)

__all__ = [
    "FCOSMaps",
    "SpikeYOLO",
    "SpikingBackbone",
    "SpikingFCOSHead",
    "SpikingHead",
    "SpikingPyramid",
    "spiking_fcos",
]


def __getattr__(name: str) -> Any:
    if name in _OF_ULTRALYTICS:
        from snntorch_smixer.detect import yolo

        return getattr(yolo, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
