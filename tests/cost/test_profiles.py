"""Shipped chip profiles are complete, sourced and plausible; malformed ones are refused by name, key and unit."""

import ast
import copy
import dataclasses
import inspect
import pickle
import re
from pathlib import Path

import pytest

from snntorch_smixer.cost import fits, profile
from snntorch_smixer.cost.profile import POWER, PRICES, Capacity, Figure, Profile, list_profiles, load_profile
from snntorch_smixer.errors import ProfileError

SHIPPED = {
    *("papers45", "horowitz45-fp32", "horowitz45-fp16", "horowitz45-int8", "horowitz45-fp32-sram"),
    *("loihi1", "loihi2", "truenorth", "odin", "darwin3", "tianjic", "spinnaker2", "speck", "akida"),
}
PLAUSIBLE = {"pJ": (0.01, 1000), "pJ/bit": (0.01, 100), "mW": (0.1, 1000), "uW": (1, 1000), "uW/MHz": (0.1, 100)}


@pytest.fixture
def own(tmp_path: Path):
    """Writes a user's profile and loads it."""

    def write(text: str, name: str = "mine.toml") -> Profile:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_profile(path)

    return write


def figure(text: str) -> str:
    """A profile whose ac_pj is the given lines, with what they leave out."""
    known = {"scope": '"incremental"', "grade": '"measured"', "read": '"primary"', "source": '"A. Author, 2026"'}
    lines = "".join(f"{key} = {value}\n" for key, value in known.items() if not re.search(rf"^{key} =", text, re.M))
    return f'extends = "horowitz45-fp32"\n[prices.ac_pj]\n{lines}{text}\n'


def price(name: str, key: str) -> float | None:
    return load_profile(name).prices[key].value


def test_all_are_shipped():
    assert set(list_profiles()) == SHIPPED
    assert list_profiles() == sorted(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_profile(name: str):
    shipped = load_profile(name)
    assert shipped.name == name
    assert set(shipped.prices) | set(shipped.includes) == set(PRICES)
    assert not set(shipped.prices) & set(shipped.includes)
    for entry in (*shipped.prices.values(), *shipped.power.values()):
        least, most = PLAUSIBLE[entry.unit]
        assert entry.note if entry.value is None else least <= entry.value <= most
        assert entry.value is None or entry.source
        assert entry.scope != "operating-point"
    assert {point.figure.scope for point in shipped.operating_points} <= {"operating-point"}
    assert (shipped.rule == "papers") == (name == "papers45") == (shipped.updates == "free")
    ac, mac = (shipped.prices[key].value for key in ("ac_pj", "mac_pj"))
    assert None in (ac, mac) or ac < mac


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("papers45", {"ac_pj": 0.9, "mac_pj": 4.6, "act_act_pj": 0.9, "graded_pj": 0.9}),
        ("horowitz45-fp32", {"ac_pj": 0.9, "mac_pj": 4.6, "mul_pj": 3.7, "update_pj": 5.5, "state_pj_per_bit": None}),
        ("horowitz45-fp16", {"ac_pj": 0.4, "mac_pj": 1.5, "mul_pj": 1.1, "update_pj": 1.9, "hop_pj": None}),
        ("horowitz45-int8", {"ac_pj": 0.03, "mac_pj": 0.23, "mul_pj": 0.2, "update_pj": 0.26, "spike_pj": None}),
        ("horowitz45-fp32-sram", {"ac_pj": 0.9, "weight_read_pj_per_bit": 20 / 64, "activation_pj_per_bit": 20 / 64}),
        ("loihi1", {"ac_pj": 23.6, "update_pj": 81, "update_idle_pj": 52, "spike_pj": 1.7, "hop_pj": 3.5}),
        ("loihi2", {"ac_pj": None, "update_pj": None}),
        ("truenorth", {"ac_pj": 2.297, "update_pj": None, "update_idle_pj": None}),
        ("odin", {"ac_pj": 8.43, "update_pj": None}),
        ("darwin3", {"ac_pj": 5.47, "update_pj": None}),
        ("tianjic", {"ac_pj": 1.54, "update_pj": None}),
        ("spinnaker2", {"ac_pj": 10, "mac_pj": None}),
        ("speck", {"ac_pj": None}),
        ("akida", {"ac_pj": None}),
    ],
)
def test_published_values(name: str, values: dict[str, float | None]):
    assert {key: price(name, key) for key in values} == values


def test_derived_updates_are_the_sum_of_their_operations():
    """Leaky integrate-and-fire: multiply, add, compare."""
    for name in ("horowitz45-fp32", "horowitz45-fp16", "horowitz45-int8"):
        parts = [price(name, key) for key in ("mul_pj", "add_pj", "compare_pj")]
        assert price(name, "update_pj") == pytest.approx(sum(parts))
        assert price(name, "mac_pj") == pytest.approx(parts[0] + parts[1])
        assert price(name, "batch_norm_pj") == pytest.approx(parts[0] + parts[1])
        assert load_profile(name).prices["update_pj"].grade == "derived"


def test_loihi_is_graded_as_a_simulated_minimum():
    loihi = load_profile("loihi1")
    ac = loihi.price("ac_pj")
    assert (ac.grade, ac.read, ac.unit, ac.band) == ("simulated", "second-hand", "pJ", (23.6, 35.5))
    assert loihi.prices["hop_pj"].band == (3.0, 4.0)
    assert loihi.power["static_mw"].value == 104
    assert loihi.price("weight_read_pj_per_bit") is None
    assert loihi.includes["weight_read_pj_per_bit"].startswith("inside ac_pj")
    assert "mac_pj" in loihi.unpriced
    assert "ac_pj" not in loihi.unpriced
    assert loihi.capacity.synapse_bits_per_core == 128 * 1024 * 8


def test_only_the_papers_have_batch_norm_for_nothing():
    """The estimator folds it on request; a chip that has to run it must say what it costs, or that nobody knows."""
    assert {name for name in SHIPPED if "batch_norm_pj" in load_profile(name).includes} == {"papers45"}


def test_averages_are_operating_points():
    points = {name: [p.figure.value for p in load_profile(name).operating_points] for name in ("truenorth", "odin")}
    assert points == {"truenorth": [26.0], "odin": [12.7]}


def test_products_of_activations():
    able = {name for name in SHIPPED if load_profile(name).act_act}
    assert able == {name for name in SHIPPED if "45" in name} | {"loihi2", "spinnaker2"}


def test_unknown_chip():
    with pytest.raises(
        ProfileError, match=r"no chip 'Loihi'\. Did you mean loihi2 or loihi1\? There are akida, .*Pass"
    ):
        load_profile("Loihi")
    with pytest.raises(ProfileError, match=r"no chip 'zzz'\. There are akida"):
        load_profile("zzz")
    with pytest.raises(ProfileError, match=r"nowhere\.toml: no such file"):
        load_profile("nowhere.toml")


def test_unknown_price():
    with pytest.raises(ProfileError, match=r"\[prices\] ac_nj is no key of this table\. Wanted ac_pj, in pJ"):
        load_profile("loihi1").price("ac_nj")


def test_own_profile_overrides_a_figure(own):
    mine = own(figure("value = 2\nband = [1, 3.5]"))
    assert (mine.name, mine.title) == ("mine", "45 nm arithmetic, fp32, as changed in mine.toml")
    assert mine.price("ac_pj") == Figure(2, "pJ", "incremental", "measured", "primary", "A. Author, 2026", "", (1, 3.5))
    assert mine.price("mac_pj") == load_profile("horowitz45-fp32").price("mac_pj")


def test_own_profile_moves_keys_between_prices_and_includes(own):
    mine = own('extends = "horowitz45-fp32"\n[includes]\nupdate_pj = "measured elsewhere"')
    assert mine.price("update_pj") is None
    assert "update_pj" not in mine.prices
    text = 'extends = "mine.toml"\ntitle = "Two"\n[prices]\nupdate_pj = { value = "unknown", note = "not measured" }'
    both = own(text, "both.toml")
    assert (both.title, both.unpriced[0], "update_pj" in both.includes) == ("Two", "update_pj", False)


def test_own_profile_must_not_extend_itself(own):
    with pytest.raises(ProfileError, match=r"mine\.toml: extends itself by way of mine\.toml"):
        own('extends = "mine.toml"')
    with pytest.raises(ProfileError, match=r"mine\.toml: extends: load_profile: no chip 'loihi'\. Did you mean"):
        own('extends = "loihi"')


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("value = -1", "value=-1. Wanted a number above 0 in pJ. Write a plain number"),
        ("value = 0", "value=0. Wanted a number above 0 in pJ"),
        ("value = nan", "value=nan. Wanted a number above 0 in pJ"),
        ("value = inf", "value=inf. Wanted"),
        ("value = true", "value=True. Wanted"),
        ('value = "2.5"', "value='2.5'. Wanted a number above 0 in pJ"),
        ('value = 1\nsource = ""', "no source. Wanted the publication of the number"),
        ("value = 1\nsource = 3", "source=3. Wanted text"),
        ('value = 1\ngrade = "guess"', "grade='guess'. Wanted one of measured, simulated, vendor"),
        ('value = 1\nread = "none"', "read='none'. Wanted one of primary, second-hand, recalled"),
        ('value = 1\nscope = "all"', "scope='all'. Wanted one of incremental"),
        ("value = 1\nband = [2, 3]", "band=(2, 3). Wanted [least, largest] around 1"),
        ("value = 1\nband = [0, 3]", "band=(0, 3). Wanted"),
        ("value = 1\nband = 1", "band=1. Wanted"),
        ('value = 1\nunit = "nJ"', "unknown key unit. Wanted value, scope, grade"),
        ("note = ''", "Wanted a table with value, scope, grade, read, source"),
        ('value = "unknown"', 'value = "unknown" has a scope and grade and read. Wanted only note and source'),
    ],
)
def test_malformed_figure(own, lines: str, text: str):
    with pytest.raises(ProfileError, match=r"mine\.toml: \[prices\] ac_pj \(pJ\): .*" + re.escape(text)):
        own(figure(lines))


def test_missing_scope_and_grade(own):
    with pytest.raises(ProfileError, match=r"ac_pj \(pJ\): scope='none'. Wanted one of"):
        own('extends = "horowitz45-fp32"\n[prices]\nac_pj = { value = 1, grade = "measured", source = "x" }')
    with pytest.raises(ProfileError, match=r'"unknown" without a note. Wanted the reason'):
        own('extends = "horowitz45-fp32"\n[prices]\nac_pj = { value = "unknown" }')
    with pytest.raises(ProfileError, match=r"ac_pj \(pJ\): got 0\.9\. Wanted a table"):
        own('extends = "horowitz45-fp32"\n[prices]\nac_pj = 0.9')


def test_operating_point_is_no_price(own):
    with pytest.raises(ProfileError, match=r"ac_pj is an operating-point average.*Move it to \[\[operating_points\]\]"):
        own(figure('value = 26\nscope = "operating-point"'))


POINT = '[[operating_points]]\nname = "x"\nquantity = "energy_pj"\nvalue = 1\ngrade = "measured"\nread = "primary"\n'


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("[prices]\nac_nj = { value = 1 }", "[prices] ac_nj is no key of this table. Wanted ac_pj, in pJ"),
        ("[prices]\nac = { value = 1 }", "[prices] ac is no key of this table. Wanted ac_pj, in pJ"),
        ("[power]\nstatic_w = { value = 1 }", "[power] static_w is no key of this table. Wanted static_mw, in mW"),
        ("[includes]\nac_uj = 'x'", "[includes] ac_uj is no key of this table. Wanted ac_pj"),
        ("[includes]\nac_pj = ' '", "[includes] ac_pj=' '. Wanted the reason"),
        ("prices = 3", "prices=3 is no table. Wanted [prices]"),
        ("voltage = 3", "unknown key voltage. Wanted voltage_v"),
        ("volts = 3", "unknown key volts. Wanted one of title, node, voltage_v"),
        ("voltage_v = -1", "voltage_v=-1. Wanted volts above 0"),
        ("rule = 'paper'", "rule='paper'. Wanted one of event, papers"),
        ("updates = 'never'", "updates='never'. Wanted one of clocked, triggered, free"),
        ("act_act = 1", "act_act=1. Wanted true or false"),
        ("weight_bits = 8.0", "weight_bits=8.0. Wanted a whole number of bits"),
        ("title = ''", "title=''. Wanted text"),
        ("notes = 1", "notes=1. Wanted text"),
        ("[capacity]\nneuron_per_core = 3", "[capacity] unknown key neuron_per_core. Wanted neurons_per_core"),
        ("[capacity]\nfan_in = 0", "capacity: fan_in=0. Wanted a whole number of at least 1"),
        ("[capacity]\nkernel_words = 3", "capacity: kernel_words=3. Wanted a list of whole numbers"),
        ("[capacity]\nshares_weights = 1", "capacity: shares_weights=1. Wanted true or false"),
        ("[capacity]\nfan_in = 4", "capacity: no sources"),
        ("[capacity]\nsources = ['']", "capacity: sources=('',). Wanted a list of texts"),
        ("[capacity]\nsources = ['x']\nkernel_words = [1]", "capacity: (1, 0) entries in kernel_words, neuron_words"),
        ("[capacity]\nsources = ['x']\nweight_bits = 4", "weight_bits=32. Wanted at most the 4 of [capacity]"),
        ("operating_points = 3", "operating_points=3. Wanted tables with name, quantity, value"),
        ("[[operating_points]]\nname = 'x'", "operating_points=[{'name': 'x'}]. Wanted tables"),
        (POINT + "source = 'x'\nscope = 'incremental'", "operating point 'x': scope='incremental'. Wanted"),
        (
            POINT.replace("energy_pj", "energy") + "source = 'x'",
            "'energy' has no unit. Wanted an ending of _pj_per_bit",
        ),
        ("x = ", "not valid TOML"),
    ],
)
def test_malformed_profile(own, lines: str, text: str):
    with pytest.raises(ProfileError, match=r"mine\.toml: .*" + re.escape(text)):
        own(f'extends = "horowitz45-fp32"\n{lines}\n')


def test_nothing_is_free_by_silence(own):
    source = (profile.FOLDER / "papers45.toml").read_text(encoding="utf-8")
    with pytest.raises(
        ProfileError, match=r'\[prices\] hop_pj is missing. Wanted a figure in pJ, "unknown", or a reason'
    ):
        own(re.sub(r"hop_pj = .*\n", "", source))
    twice = f'{source}\n[prices.hop_pj]\nvalue = "unknown"\nnote = "x"\n'
    with pytest.raises(ProfileError, match=r"mine\.toml: \[prices\] hop_pj is in both tables"):
        own(twice)
    with pytest.raises(ProfileError, match=r"mine\.toml: lacks title, node, rule, updates.*or extends = "):
        own("")


def test_immutable_and_portable():
    loihi = load_profile("loihi1")
    for change in (lambda: loihi.prices.update({}), lambda: loihi.includes.clear(), lambda: loihi.power.pop("x")):
        with pytest.raises(AttributeError):
            change()
    with pytest.raises(dataclasses.FrozenInstanceError):
        loihi.rule = "papers"
    assert pickle.loads(pickle.dumps(loihi)) == copy.deepcopy(loihi) == loihi
    assert hash(loihi.capacity) == hash(load_profile("loihi1").capacity)
    assert dataclasses.replace(loihi, title="x").prices == loihi.prices


def test_values_check_themselves():
    with pytest.raises(ProfileError, match=r"value=-1. Wanted"):
        Figure(-1, "pJ", "incremental", "measured", "primary", "x")
    with pytest.raises(ProfileError, match="no sources"):
        Capacity(fan_in=3)
    assert set(POWER) == {"static_mw", "base_uw", "clock_uw_per_mhz", "event_pj"}


@pytest.mark.parametrize("module", [fits, profile], ids=lambda module: module.__name__)
def test_numbers_about_hardware_live_in_the_profiles(module):
    found = [node.value for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Constant)]
    floats = {value for value in found if isinstance(value, float)}
    assert floats <= {0.0, 0.4, 0.7, 1e-3, 1e-9}  # a default, cutoffs for close matches, uW to mW, pJ/s to mW
