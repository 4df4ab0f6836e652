"""Asynchronous chips: which operations of a model they can run, and what late, lost and jittered spikes do to a net."""

from snntorch_smixer.events.audit import REASONS as REASONS
from snntorch_smixer.events.audit import Audit as Audit
from snntorch_smixer.events.audit import Hit as Hit
from snntorch_smixer.events.audit import Operation as Operation
from snntorch_smixer.events.audit import audit as audit
from snntorch_smixer.events.simulate import Simulation as Simulation
from snntorch_smixer.events.simulate import Timing as Timing
from snntorch_smixer.events.simulate import simulate as simulate

__all__ = ["REASONS", "Audit", "Hit", "Operation", "Simulation", "Timing", "audit", "simulate"]
