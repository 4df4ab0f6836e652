"""What is refused before a model runs because it cannot be counted: scripted code, lazy weights, sparse inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from snntorch_smixer.errors import MeasureError


def check_model(model: nn.Module) -> None:
    """Refuse modules whose operations or weights cannot be seen.

    Raises:
        MeasureError: a scripted or traced module, parameters not yet initialised, or several devices at once.
    """
    for name, module in model.named_modules():
        where = f"measure: {name or 'the model'} is a {type(module).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise MeasureError(
                f"{where}, scripted or traced code, expected a Python module: TorchScript fuses operations and hides "
                "its layers. Pass the module that it was made from."
            )
        if any(map(is_lazy, chain(module.parameters(recurse=False), module.buffers(recurse=False)))):
            raise MeasureError(
                f"{where} whose parameters are uninitialised, expected weights of a known shape. Run the model once on "
                "a batch first."
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise MeasureError(
                f"{where} over {len(module.device_ids)} devices, expected one: it runs copies in threads of their own, "
                "which are not seen. Pass its .module."
            )


def check_inputs(inputs: Sequence[Tensor]) -> None:
    """Refuse a batch that holds nothing to count.

    Raises:
        MeasureError: no tensor, one that is not dense, without numbers or empty, or values that are not finite.
    """
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise MeasureError(
            f"measure: the batch holds {', '.join(type(x).__name__ for x in inputs) or 'nothing'}, expected tensors. "
            "Pass the input tensor, or several in the order of the model's arguments."
        )
    for x in inputs:
        _check_layout(x)
        if not x.numel():
            raise MeasureError(
                f"measure: the batch is empty, shape {tuple(x.shape)}. Pass at least one sample: events are counted on "
                "real data."
            )
        if (x.is_floating_point() or x.is_complex()) and not bool(torch.isfinite(x).all()):
            raise MeasureError(
                "measure: the batch holds values that are not finite. Check how it was loaded and normalised."
            )


def _check_layout(x: Tensor) -> None:
    if x.is_nested:
        found, remedy = "nested", "Pad it with .to_padded_tensor(0.0)"
    elif x.is_quantized:
        found, remedy = "quantised", "Pass .dequantize() of it"
    elif x.layout is not torch.strided:
        found, remedy = str(x.layout).removeprefix("torch."), "Pass .to_dense() of it"
    elif x.device.type == "meta":
        found, remedy = "without data (device meta)", "Pass real samples"
    else:
        return
    raise MeasureError(f"measure: the batch holds a tensor that is {found}, expected a dense one. {remedy}.")
