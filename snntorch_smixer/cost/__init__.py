"""What a run costs on a chip: exact counts, prices with their sources, fit."""

from snntorch_smixer.cost.measure import measure as measure
from snntorch_smixer.cost.records import Records as Records
