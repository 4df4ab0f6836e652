"""``smixer audit``: which operations of a model an asynchronous chip can run."""

from __future__ import annotations

import json
from dataclasses import asdict

from torch import Tensor, nn

from snntorch_smixer.events import audit


def audit_text(model: nn.Module, example: Tensor, *, axes: str | None = None, as_json: bool = False) -> str:
    """What `events.audit` finds, as a table or as JSON.

    Raises:
        MeasureError: as `events.audit`.
    """
    found = audit(model, example, axes=axes)
    return json.dumps(asdict(found) | {"event_driven": found.event_driven}, indent=2) if as_json else str(found)
