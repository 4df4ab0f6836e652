"""What a chip draws while it is switched on: priced with the time of an inference, and listed without."""

import dataclasses

import pytest

from snntorch_smixer.cost import Assumptions, Record, Records, estimate, load_profile
from snntorch_smixer.cost.profile import Profile

LOIHI, ODIN = load_profile("loihi1"), load_profile("odin")
RUN = Records("Net", 1, 1, (Record("fc", "linear", "spikes", counts={"ac": 10}),), {}, (), 10)


def test_static_power_takes_a_latency():
    resting = estimate(RUN, "loihi1")
    assert (resting.static_power_pj, [e.term for e in resting.unpriced]) == (0, ["static power"])
    report = estimate(RUN, "loihi1", assume=Assumptions(latency_ms=2.0, chips=3))
    assert report.static_power_pj == pytest.approx(104.0 * 2 * 3 * 1e6)  # mW x ms is uJ
    assert report.energy_mj == pytest.approx(0.624 + 236e-9, rel=1e-12)
    assert report.unpriced == ()
    assert report.low_pj == pytest.approx(624e6 + 236)
    assert report.high_pj == pytest.approx(624e6 + 355)
    assert estimate(RUN, "papers45", assume=Assumptions(latency_ms=2.0)).static_power_pj == 0


def at_rest(chip: Profile | str, **assume: object) -> tuple[float, dict[str, tuple[str, float, str]]]:
    """Static power in pJ, and what of the power is listed, by its term."""
    report = estimate(RUN, chip, assume=Assumptions(**assume))
    assert report.energy_mj * 1e9 == pytest.approx(sum(report.terms_pj.values()) + report.static_power_pj, rel=1e-12)
    listed = [entry for entry in report.unpriced if entry.term.endswith("power")]
    return report.static_power_pj, {entry.term: (entry.price, entry.amount, entry.reason) for entry in listed}


NO_CLOCK = ("clock_uw_per_mhz", 1.78, "the clock is not assumed")


def test_power_at_rest_of_odin_is_listed():
    resting = ("static_mw", pytest.approx(0.0273), "the time of one inference is not assumed")
    assert at_rest("odin") == (0, {"static power": resting, "clock power": NO_CLOCK})


def test_power_at_rest_of_odin_takes_a_latency_and_its_clock_stays_listed():
    # 27.3 uW x 2 ms x 3 chips = 163.8 nJ
    assert at_rest("odin", latency_ms=2.0, chips=3) == (pytest.approx(163_800.0), {"clock power": NO_CLOCK})


def test_static_and_base_power_add_up():
    both = {"static_mw": LOIHI.power["static_mw"], "base_uw": ODIN.power["base_uw"]}
    chip = dataclasses.replace(LOIHI, power=both)
    ((_, amount, _),) = at_rest(chip)[1].values()
    assert amount == pytest.approx(104.0273)
    assert at_rest(chip, latency_ms=0.5) == (pytest.approx(104.0273 * 0.5e6), {})


@pytest.mark.parametrize("latency_ms", [None, 2.0])
def test_power_that_nobody_published(latency_ms: float | None):
    for chip in ("horowitz45-fp32", "darwin3"):
        unknown = {"static power": ("static_mw", 0, "the profile has no figure")}
        assert at_rest(chip, latency_ms=latency_ms) == (0, unknown)
    assert at_rest("papers45", latency_ms=latency_ms) == (0, {})
    figures = {**LOIHI.power, **ODIN.power}
    papers = dataclasses.replace(load_profile("papers45"), power=figures)
    assert at_rest(papers, latency_ms=latency_ms) == (0, {})  # the rule leaves it out, figure or not


def test_clock_power_alone_is_no_figure_for_power_at_rest():
    chip = dataclasses.replace(LOIHI, power={"clock_uw_per_mhz": ODIN.power["clock_uw_per_mhz"]})
    unknown = ("static_mw", 0, "the profile has no figure")
    for latency_ms in (None, 2.0):
        assert at_rest(chip, latency_ms=latency_ms) == (0, {"static power": unknown, "clock power": NO_CLOCK})
