"""Spiking detectors with SMixer blocks and DSTSP.

What needs ultralytics (AGPL-3.0) is imported when it is asked for, and by nothing else.
"""

from typing import Any

from snntorch_smixer.detect.backbone import SpikingBackbone as SpikingBackbone
from snntorch_smixer.detect.data import BoxData as BoxData
from snntorch_smixer.detect.data import BoxFolder as BoxFolder
from snntorch_smixer.detect.detector import DetectorConfig as DetectorConfig
from snntorch_smixer.detect.detector import SpikingDetector as SpikingDetector
from snntorch_smixer.detect.detector import from_ultralytics as from_ultralytics
from snntorch_smixer.detect.draw import draw_boxes as draw_boxes
from snntorch_smixer.detect.draw import dropped_tokens as dropped_tokens
from snntorch_smixer.detect.fcos import FCOSMaps as FCOSMaps
from snntorch_smixer.detect.fcos import SpikingFCOSHead as SpikingFCOSHead
from snntorch_smixer.detect.fcos import export_onnx as export_onnx
from snntorch_smixer.detect.fcos import spiking_fcos as spiking_fcos
from snntorch_smixer.detect.head import SpikingHead as SpikingHead
from snntorch_smixer.detect.head import detections as detections
from snntorch_smixer.detect.metrics import Precision as Precision
from snntorch_smixer.detect.metrics import average_precision as average_precision
from snntorch_smixer.detect.metrics import evaluate as evaluate
from snntorch_smixer.detect.rows import SpikingPyramid as SpikingPyramid
from snntorch_smixer.detect.rows import config_path as config_path
from snntorch_smixer.detect.training import DetectorRecipe as DetectorRecipe
from snntorch_smixer.detect.training import fit_detector as fit_detector

_OF_ULTRALYTICS = ("SpikeYOLO", "register", "unregister")

__all__ = [
    "BoxData",
    "BoxFolder",
    "DetectorConfig",
    "DetectorRecipe",
    "FCOSMaps",
    "Precision",
    "SpikeYOLO",
    "SpikingBackbone",
    "SpikingDetector",
    "SpikingFCOSHead",
    "SpikingHead",
    "SpikingPyramid",
    "average_precision",
    "config_path",
    "detections",
    "draw_boxes",
    "dropped_tokens",
    "evaluate",
    "export_onnx",
    "fit_detector",
    "from_ultralytics",
    "register",
    "spiking_fcos",
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
