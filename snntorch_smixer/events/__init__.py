"""Asynchronous chips: which operations of a model they can run."""

from snntorch_smixer.events.audit import REASONS as REASONS
from snntorch_smixer.events.audit import Audit as Audit
from snntorch_smixer.events.audit import Hit as Hit
from snntorch_smixer.events.audit import Operation as Operation
from snntorch_smixer.events.audit import audit as audit

__all__ = ["REASONS", "Audit", "Hit", "Operation", "audit"]
