"""What a run costs on a chip: exact counts, prices with their sources, fit.

```python
records = cost.measure(net, batch)
print(cost.estimate(records, "loihi1"))
```
"""

from snntorch_smixer.cost.estimate import Assumptions, Comparison, CostReport, compare, estimate
from snntorch_smixer.cost.fits import Fit, fits
from snntorch_smixer.cost.measure import measure
from snntorch_smixer.cost.profile import Profile, list_profiles, load_profile, power_mw
from snntorch_smixer.cost.records import Geometry, Record, Records, Uncounted
from snntorch_smixer.cost.w_prime import MixerLoad, WPrimePlan, cores_on, memory_prices, plan_w_prime

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
