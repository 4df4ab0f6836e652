"""What a run costs on a chip: exact counts, prices with their sources, fit."""

from snntorch_smixer.cost.compare import Comparison as Comparison
from snntorch_smixer.cost.compare import compare as compare
from snntorch_smixer.cost.estimate import CostReport as CostReport
from snntorch_smixer.cost.estimate import estimate as estimate
from snntorch_smixer.cost.measure import measure as measure
from snntorch_smixer.cost.profile import Profile as Profile
from snntorch_smixer.cost.profile import list_profiles as list_profiles
from snntorch_smixer.cost.profile import load_profile as load_profile
from snntorch_smixer.cost.records import Record as Record
from snntorch_smixer.cost.records import Records as Records
from snntorch_smixer.cost.terms import Assumptions as Assumptions
