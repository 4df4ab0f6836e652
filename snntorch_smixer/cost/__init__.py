"""What a run costs on a chip: exact counts, prices with their sources, fit.

```python
records = cost.measure(net, batch)
print(cost.estimate(records, "loihi1"))
```
"""

from snntorch_smixer.cost.estimate import Assumptions as Assumptions
from snntorch_smixer.cost.estimate import Comparison as Comparison
from snntorch_smixer.cost.estimate import CostReport as CostReport
from snntorch_smixer.cost.estimate import compare as compare
from snntorch_smixer.cost.estimate import estimate as estimate
from snntorch_smixer.cost.fits import Fit as Fit
from snntorch_smixer.cost.fits import fits as fits
from snntorch_smixer.cost.measure import measure as measure
from snntorch_smixer.cost.profile import Profile as Profile
from snntorch_smixer.cost.profile import list_profiles as list_profiles
from snntorch_smixer.cost.profile import load_profile as load_profile
from snntorch_smixer.cost.profile import power_mw as power_mw
from snntorch_smixer.cost.records import Geometry as Geometry
from snntorch_smixer.cost.records import Record as Record
from snntorch_smixer.cost.records import Records as Records
from snntorch_smixer.cost.records import Uncounted as Uncounted
from snntorch_smixer.cost.w_prime import MixerLoad as MixerLoad
from snntorch_smixer.cost.w_prime import WPrimePlan as WPrimePlan
from snntorch_smixer.cost.w_prime import cores_on as cores_on
from snntorch_smixer.cost.w_prime import memory_prices as memory_prices
from snntorch_smixer.cost.w_prime import plan_w_prime as plan_w_prime

__all__ = [
    "Assumptions",
    "Comparison",
    "CostReport",
    "Fit",
    "Geometry",
    "MixerLoad",
    "Profile",
    "Record",
    "Records",
    "Uncounted",
    "WPrimePlan",
    "compare",
    "cores_on",
    "estimate",
    "fits",
    "list_profiles",
    "load_profile",
    "measure",
    "memory_prices",
    "plan_w_prime",
    "power_mw",
]


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
