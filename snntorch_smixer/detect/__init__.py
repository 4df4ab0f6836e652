"""Spiking detectors with SMixer blocks and DSTSP.

What needs ultralytics (AGPL-3.0) is imported when it is asked for, and by nothing else.
"""

from typing import Any

from snntorch_smixer.detect.backbone import SpikingBackbone as SpikingBackbone
from snntorch_smixer.detect.data import BoxData as BoxData
from snntorch_smixer.detect.data import BoxFolder as BoxFolder
from snntorch_smixer.detect.fcos import FCOSMaps as FCOSMaps
from snntorch_smixer.detect.fcos import SpikingFCOSHead as SpikingFCOSHead
from snntorch_smixer.detect.fcos import spiking_fcos as spiking_fcos
from snntorch_smixer.detect.head import SpikingHead as SpikingHead
from snntorch_smixer.detect.metrics import Precision as Precision
from snntorch_smixer.detect.metrics import average_precision as average_precision
from snntorch_smixer.detect.metrics import evaluate as evaluate
from snntorch_smixer.detect.rows import SpikingPyramid as SpikingPyramid
from snntorch_smixer.detect.training import DetectorRecipe as DetectorRecipe
from snntorch_smixer.detect.training import fit_detector as fit_detector

_OF_ULTRALYTICS = ("SpikeYOLO",)

__all__ = [
    "BoxData",
    "BoxFolder",
    "DetectorRecipe",
    "FCOSMaps",
    "Precision",
    "SpikeYOLO",
    "SpikingBackbone",
    "SpikingFCOSHead",
    "SpikingHead",
    "SpikingPyramid",
    "average_precision",
    "evaluate",
    "fit_detector",
    "spiking_fcos",
]


def __getattr__(name: str) -> Any:
    if name in _OF_ULTRALYTICS:
        from snntorch_smixer.detect import yolo

        return getattr(yolo, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
