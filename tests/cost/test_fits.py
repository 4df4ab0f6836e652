"""Cores and chips: figures worked out by hand, and a search over every tile."""

import dataclasses
import random

import pytest

from snntorch_smixer.cost.fits import LayerFit, fits, least_chips, least_cores, memory_words
from snntorch_smixer.cost.profile import Capacity, Profile, load_profile
from snntorch_smixer.cost.records import Geometry, Record, Records
from snntorch_smixer.errors import ProfileError

LOIHI1, LOIHI2, TRUENORTH, SPECK = map(load_profile, ("loihi1", "loihi2", "truenorth", "speck"))


def mixer(tokens: int, channels: int, heads: int = 16) -> Geometry:
    return Geometry(tokens, tokens, channels, heads)


def conv(inputs: int, outputs: int, side: int, kernel: int = 3) -> Geometry:
    size = (kernel, kernel)
    return Geometry(inputs * kernel**2, outputs, side * side, 1, size, (side, side), (inputs, outputs))


def one(geometry: Geometry, profile: Profile) -> LayerFit:
    (entry,) = fits({"layer": geometry}, profile).layers
    return entry


def smixer_8_768() -> dict[str, Geometry]:
    stem = [(3, 96, 224), (96, 192, 112), (192, 384, 56), (384, 768, 28), (768, 672, 14)]
    layers = {f"stem.{i}": conv(*sizes) for i, sizes in enumerate(stem)} | {"short": conv(3, 96, 14, kernel=16)}
    for i in range(8):
        layers |= {
            f"{i}.fc1": Geometry(768, 768, 196),
            f"{i}.mix": mixer(196, 768),
            f"{i}.fc2": Geometry(768, 768, 196),
        }
        layers |= {f"{i}.up": Geometry(768, 3072, 196), f"{i}.down": Geometry(3072, 768, 196)}
    return layers | {"head": Geometry(768, 1000, 1)}


def changed(profile: Profile, capacity: dict) -> Profile:
    return dataclasses.replace(profile, capacity=dataclasses.replace(profile.capacity, **capacity))


@pytest.mark.parametrize(
    ("tokens", "channels", "cores", "together"),
    [
        (196, 768, 768, 1),
        (137, 768, 768, 1),
        (129, 768, 768, 1),
        (128, 768, 384, 2),
        (64, 384, 96, 4),
        (45, 384, 77, 5),
        (44, 384, 77, 5),
    ],
)
def test_token_mixing_on_truenorth(tokens: int, channels: int, cores: int, together: int):
    """256 // N channels fill a core: pruning 196 tokens to 137 saves none, to 128 half of them."""
    entry = one(mixer(tokens, channels), TRUENORTH)
    assert (entry.cores, entry.blocks_per_core, entry.outputs_per_core) == (cores, together, tokens)
    assert entry.limit == ("neurons+axons+synapses" if tokens == 196 else "neurons+axons")  # 2 * 196^2 > 65 536


@pytest.mark.parametrize(
    ("tokens", "shared", "cores", "together", "limit"),
    [
        (196, True, 154, 5, "neurons"),  # 1024 // 196 = 5; 2 heads at a border: 2 * 196^2 bytes = 75 KB
        (196, False, 256, 3, "synapse memory"),  # 3 * 196^2 = 115 248 bytes of 131 072
        (137, True, 110, 7, "neurons"),
        (137, False, 128, 6, "synapse memory"),  # 6 * 137^2 = 112 614 bytes
    ],
)
def test_token_mixing_on_loihi1(tokens: int, shared: bool, cores: int, together: int, limit: str):
    entry = one(mixer(tokens, 768), changed(LOIHI1, {"shares_weights": shared}))
    assert (entry.cores, entry.blocks_per_core, entry.limit) == (cores, together, limit)


def test_core_at_the_border_of_two_heads_stores_both_matrices():
    """Room for one matrix of 196^2 bytes only: 4 channels divide the 48 of a head, 5 do not."""
    bits = 8 * 196**2
    assert one(mixer(196, 768), changed(LOIHI1, {"synapse_bits_per_core": bits})).blocks_per_core == 4
    assert one(mixer(196, 768), changed(LOIHI1, {"synapse_bits_per_core": 2 * bits})).blocks_per_core == 5


def test_cutting_blocks_saves_cores():
    """Channels of 137 tokens with weights of their own: 6 whole ones in a core, or a quarter of 27."""
    chip = changed(LOIHI1, {"shares_weights": False})
    (entry,) = fits({"mix": mixer(137, 768)}, chip, whole_blocks=False).layers
    assert (entry.cores, entry.blocks_per_core, entry.outputs_per_core) == (116, 27, 35)  # 29 groups x 4 parts
    (entry,) = fits({"fc": Geometry(10, 768, 196)}, LOIHI1, whole_blocks=False).layers
    assert (entry.cores, entry.blocks_per_core, entry.outputs_per_core) == (147, 4, 256)  # 49 groups x 3 parts
    assert one(Geometry(10, 768, 196), LOIHI1).cores == 196


def test_neurons_alone():
    """18.7 M neurons of 8-768 at T = 1 and 1.23 M of 4-384; 18 228 / 128 = 142.4, so 143 chips."""
    assert (least_cores(18_665_472, LOIHI1), least_chips(18_665_472, LOIHI1)) == (18_228, 143)
    assert (least_cores(18_665_472, LOIHI2), least_chips(18_665_472, LOIHI2)) == (2_279, 18)
    assert (least_cores(1_228_800, LOIHI1), least_cores(1_228_800, LOIHI2)) == (1_200, 150)


def test_whole_net():
    """The spiking neurons of 8-768, and the accumulators of the tokens (768 * 196) and of the head behind them."""
    layers = smixer_8_768()
    fit = fits(layers, LOIHI1)
    assert fit.neurons == 18_665_472 + 768 * 196 + 1000
    assert fit.least_cores == 18_376
    assert fit.problems == ("stem.4: fan-in 6912 > 4096 inputs of a core",)
    assert (fit.ok, fit.cores, fit.chips) == (False, None, None)
    del layers["stem.4"]
    fit = fits(layers, LOIHI1)
    assert fit.ok
    assert fit.cores == sum(entry.cores for entry in fit.layers)
    assert fit.cores >= fit.least_cores
    assert fit.chips == -(-fit.cores // 128)
    assert fit.unchecked == ()
    assert fits(layers, LOIHI2).unchecked == ("fan-out", "axons", "synapse memory")


def test_truenorth_rejects_every_wide_layer():
    fit = fits(smixer_8_768(), TRUENORTH)
    wide = {entry.layer: entry for entry in fit.layers if entry.geometry.fan_in > 256}
    assert len(wide) == 4 + 1 + 8 * 4 + 1
    assert wide["0.fc1"].problem == "fan-in 768 > 256 inputs of a core"
    assert {entry.limit for entry in wide.values()} == {"fan-in"}
    assert all(entry.cores is None for entry in wide.values())
    assert [entry.cores for entry in fit.layers if entry.layer.endswith("mix")] == [768] * 8
    assert len(fit.problems) == len(wide)


def test_linear_layer_on_loihi1():
    """768 -> 768 for 196 tokens: 4096 // 768 = 5 tokens, 131 072 // 768 = 170 outputs: 40 * 5 cores of 5 x 154."""
    entry = one(Geometry(768, 768, 196), LOIHI1)
    assert (entry.cores, entry.blocks_per_core, entry.outputs_per_core) == (200, 5, 154)
    assert entry.limit == "axons+synapse memory"


def test_one_neuron_too_many_weights():
    entry = one(Geometry(4096, 10, 1), changed(LOIHI1, {"synapse_bits_per_core": 32_767}))
    assert entry.problem == "one neuron with 4096 weights of 8 bits exceeds the synapse memory of a core"
    assert (entry.cores, entry.limit) == (None, "synapse memory")


def test_small_layer_takes_one_core():
    assert one(Geometry(10, 20, 3), LOIHI1) == LayerFit("layer", Geometry(10, 20, 3), 1, 3, 20, "")


def fewest(geometry: Geometry, profile: Profile) -> int | None:
    return fits({"layer": geometry}, profile, whole_blocks=False).layers[0].cores


def brute_force(g: Geometry, chip: Capacity, bits: int) -> int | None:
    """Fewest cores over every p and q, the sets of each core counted one by one."""
    found = []
    for p in range(1, g.blocks + 1):
        runs = [range(start, min(start + p, g.blocks)) for start in range(0, g.blocks, p)]
        sets = max(len({block * g.weight_sets // g.blocks for block in run}) for run in runs)
        for q in range(1, g.outputs + 1):
            weights = q * g.fan_in * (sets if chip.shares_weights else p) * bits
            if p * q <= chip.neurons_per_core and p * g.fan_in <= chip.fan_in and weights <= chip.synapse_bits_per_core:
                found.append(len(runs) * -(-g.outputs // q))
    return min(found, default=None)


@pytest.mark.parametrize("seed", range(60))
def test_against_every_tile(seed: int):
    draw = random.Random(seed)
    sets = draw.randint(1, 4)
    geometry = Geometry(draw.randint(1, 12), draw.randint(1, 12), sets * draw.randint(1, 10), sets)
    limits = {"neurons_per_core": draw.randint(4, 60), "fan_in": draw.randint(6, 60)}
    limits |= {"synapse_bits_per_core": draw.randint(60, 4000)}
    alone, shared = (changed(LOIHI1, {**limits, "shares_weights": flag}) for flag in (False, True))
    if geometry.fan_in > limits["fan_in"]:
        assert one(geometry, alone).limit == one(geometry, shared).limit == "fan-in"
        return
    assert fewest(geometry, alone) == brute_force(geometry, alone.capacity, 8)
    best, ours = brute_force(geometry, shared.capacity, 8), fewest(geometry, shared)
    assert (best is None) == (ours is None)
    if best is not None:  # where p does not divide a head, we count the sets of the worst run there could be
        assert best <= ours <= fewest(geometry, alone)


def records(*layers: Record) -> Records:
    return Records("Net", 1, 1, layers, {}, (), len(layers))


def test_products_of_activations_have_no_place():
    net = records(
        Record("fc", "linear", geometry=Geometry(8, 8, 4)),
        Record("lif", "neuron", counts={"updates": 32}),
        Record("attn", "act_act", counts={"act_act": 5}),
        Record("attn", "act_act", counts={"act_act": 7}),
    )
    fit = fits(net, LOIHI1)
    assert [entry.layer for entry in fit.layers] == ["fc", "attn"]
    assert fit.problems == ("attn: activation x activation: the chip cannot multiply two activations",)
    assert (fit.cores, fit.chips, fit.neurons) == (None, None, 32)
    fit = fits(net, LOIHI2)
    assert (fit.ok, fit.cores, fit.chips) == (True, 1, 1)


def test_profiles_without_cores():
    with pytest.raises(ProfileError, match=r"neurons of a horowitz45-fp32 core are not published.*Choose another chip"):
        fits({}, load_profile("horowitz45-fp32"))
    with pytest.raises(ProfileError, match="Only those of a chip are, 2350000: use least_chips"):
        fits({}, load_profile("darwin3"))
    assert least_chips(18_665_472, load_profile("darwin3")) == 8
    with pytest.raises(ProfileError, match=r"least_chips: the neurons of a spinnaker2 chip.*Add them"):
        least_chips(1, load_profile("spinnaker2"))


def test_memory_of_speck_is_rounded_up():
    assert memory_words(conv(2, 16, 64)) == (2 << 4 + 4, 16 << 12)  # 9 taps count as 16
    assert memory_words(conv(3, 17, 33)) == (3 << 4 + 5, 17 << 12)  # 17 channels as 32, 33 pixels as 64
    assert memory_words(Geometry(256, 10, 1)) == (256 << 4, 10)
    assert memory_words(Geometry(18, 3, 32, 2, (3, 3), (4, 4), (4, 6))) == (2 << 4 + 2, 3 << 4)  # two groups
    assert memory_words(mixer(64, 384)) == (64 << 6, 64 << 5)  # 24 channels of a head as 32


def test_speck_matches_layers_with_cores():
    # 64 Ki kernel words on cores 5 and 6 alone, 64 Ki neuron words on cores 0 to 2 alone.
    deep, wide, any_core = conv(64, 64, 16), conv(2, 16, 64), Geometry(128, 10, 1)
    fit = fits({"a": any_core, "b": wide, "c": wide, "d": wide, "e": deep, "f": deep}, SPECK)
    assert (fit.ok, fit.cores, fit.chips, fit.least_cores) == (True, 6, 1, None)
    taken = [entry.core_ids for entry in fit.layers]
    assert {core for (core,) in taken[1:4]} == {0, 1, 2}
    assert {core for (core,) in taken[4:]} == {5, 6}
    assert len(set(taken)) == 6


@pytest.mark.parametrize(
    ("geometry", "limit", "problem"),
    [
        (conv(128, 64, 16), "kernel memory", "kernel memory of 131072 words > 65536 of the largest core"),
        (conv(2, 32, 64), "neuron memory", "neuron memory of 131072 words > 65536 of the largest core"),
        (Geometry(2, 1025, 1), "biases", "1025 biases > 1024 of a core"),
        (
            conv(64, 64, 32),
            "kernel memory+neuron memory",
            "no core has 65536 kernel words and 65536 neuron words at once",
        ),
        (
            mixer(64, 384),
            "cores",
            "every core that could hold it is taken: the chip has 9, the network needs 16",
        ),
    ],
)
def test_speck_refuses(geometry: Geometry, limit: str, problem: str):
    entry = one(geometry, SPECK)
    assert (entry.cores, entry.limit, entry.problem) == (None, limit, problem)


def test_chips_hold_their_synapses():
    """Weights that no chip of 100 holds are cut over cores and chips, not piled on one."""
    chip = changed(LOIHI2, {"synapses_per_chip": 100})
    fit = fits({"wide": Geometry(30, 10, 1)}, chip)
    assert (fit.ok, fit.cores, fit.chips, fit.least_chips) == (True, 4, 4, 3)  # 3 outputs of 30 weights in each chip
    assert fit.layers[0].limit == "synapses of a chip"
    assert fits({"a": Geometry(9, 10, 1), "b": Geometry(1, 10, 1)}, chip).chips == 1
    assert fits({"a": Geometry(9, 10, 1), "b": Geometry(2, 10, 1)}, chip).chips == 2
    assert fits({"one": Geometry(101, 1, 1)}, chip).problems[0].endswith("exceeds the synapses of a chip")


def test_chips_hold_their_neurons():
    chip = changed(LOIHI2, {"neurons_per_chip": 25})
    assert fits({str(i): Geometry(1, 10, 1) for i in range(5)}, chip).chips == 3  # two layers on each
    assert fits({"long": Geometry(1, 60, 1)}, chip).cores == 3


def test_outgoing_edges_of_a_core():
    """100 inputs read by 4 cores of 25 neurons: a core of 40 edges holds 10 neurons of the layer before."""
    chip = changed(LOIHI1, {"neurons_per_core": 25, "fan_out": 40})
    layers = {"first": Geometry(5, 100, 1), "second": Geometry(100, 100, 1)}
    fit = fits(layers, chip)
    assert [(entry.cores, entry.edges, entry.limit) for entry in fit.layers] == [(10, 4, "fan-out"), (4, 0, "neurons")]
    fit = fits(layers, changed(chip, {"fan_out": 3}))
    assert fit.problems == ("first: one neuron sends to 4 cores > 3 outgoing edges of a core",)
    assert (fit.ok, fit.cores, fit.chips) == (False, None, None)


def test_an_input_of_a_convolution_is_read_by_every_core_of_its_neighbours():
    entry = one(conv(8, 64, 16), changed(LOIHI1, {"neurons_per_core": 512}))  # 8 positions in a core
    assert (entry.blocks_per_core, entry.fan_in_edges) == (8, 3 * 2)  # three lines, at most two cores in each


def test_edges_go_where_the_records_say():
    """A side branch of many cores is read from the first layer, not from the one that ran before it."""
    shapes = {"first": Geometry(5, 100, 1), "small": Geometry(100, 2, 1), "wide": Geometry(100, 100, 1)}
    sources = {"first": (), "small": ("first",), "wide": ("first",)}
    net = records(*(Record(name, "linear", geometry=g, sources=sources[name]) for name, g in shapes.items()))
    fit = fits(net, changed(LOIHI1, {"neurons_per_core": 25}))
    assert [entry.edges for entry in fit.layers] == [5, 0, 0]


def test_a_loop_of_layers_with_too_many_edges_is_refused():
    loop = Record("loop", "linear", geometry=Geometry(100, 100, 1), sources=("loop",))
    tight = fits(records(loop), changed(LOIHI1, {"neurons_per_core": 25, "fan_out": 10}))
    assert not tight.ok
    assert tight.layers[0].limit == "fan-out"


def test_a_known_limit_that_is_not_checked_is_no_fit():
    fit = fits({"fc": Geometry(2, 2, 1)}, changed(LOIHI1, {"bias_words": 10}))
    assert (fit.problems, fit.skipped, fit.ok) == ((), ("bias_words",), False)
    fit = fits({"fc": Geometry(2, 2, 1)}, changed(SPECK, {"synapses_per_chip": 10}))
    assert (fit.skipped, fit.ok, fit.cores) == (("synapses_per_chip",), False, 1)
