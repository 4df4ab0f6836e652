"""Configurations: named ones, checks, and the way through a TOML file."""

import dataclasses
import tomllib

import pytest

from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.config import CIFAR_STRIDES, CONFIGS, IMAGENET_STRIDES, SMixerConfig
from snntorch_smixer.models.sdt_v3 import SDTV3Config
from snntorch_smixer.models.spikformer import SpikformerConfig
from snntorch_smixer.pruning.pruner import DSTSPConfig

FULL = SMixerConfig(
    img_size=(24, 48),
    in_channels=2,
    num_classes=7,
    dim=40,
    depth=3,
    heads=5,
    mlp_ratio=2.5,
    strides=(1, 2, 1, 2, 2),
    T=6,
    mixer="ssa",
    beta=0.25,
    threshold=0.75,
    gamma=3.0,
    prune=DSTSPConfig(0.2, 3, "fuse", "high", "shared", 2, "train", "lif3"),
)


@pytest.mark.parametrize(
    ("name", "size", "tokens", "depth", "dim", "channels", "classes", "steps"),
    [
        ("smixer-4-384", 32, 64, 4, 384, 3, 10, 4),
        ("smixer-10-384", 32, 64, 10, 384, 3, 10, 4),
        ("smixer-8-384", 224, 196, 8, 384, 3, 1000, 1),
        ("smixer-8-512", 224, 196, 8, 512, 3, 1000, 1),
        ("smixer-8-768", 224, 196, 8, 768, 3, 1000, 1),
        ("smixer-2-256", 128, 64, 2, 256, 2, 11, 16),
    ],
)
def test_named_configurations(name, size, tokens, depth, dim, channels, classes, steps):
    config = CONFIGS[name]
    assert config.img_size == (size, size)
    assert config.num_tokens == tokens
    assert (config.depth, config.dim, config.heads, config.mlp_ratio) == (depth, dim, 16, 4.0)
    assert (config.in_channels, config.num_classes, config.T) == (channels, classes, steps)
    assert config.strides == (CIFAR_STRIDES if size == 32 else IMAGENET_STRIDES)
    assert (config.mixer, config.prune) == ("smixer", None)
    assert (config.beta, config.threshold, config.gamma) == (0.5, 1.0, 2.5)


def test_no_other_names():
    assert len(CONFIGS) == 6
    assert CONFIGS["smixer-4-384"] == SMixerConfig()


def test_the_grid_has_rows_and_columns():
    assert FULL.grid == (3, 6)
    assert FULL.num_tokens == 18


def test_every_field_of_the_sample_differs_from_its_default():
    assert all(getattr(FULL, f.name) != f.default for f in dataclasses.fields(SMixerConfig))
    assert all(getattr(FULL.prune, f.name) != f.default for f in dataclasses.fields(DSTSPConfig))


@pytest.mark.parametrize(
    "config",
    [
        FULL,
        *CONFIGS.values(),
        SMixerConfig(prune=DSTSPConfig()),
        SMixerConfig(prune=DSTSPConfig(t=None, spike_cap=None)),
        SMixerConfig(prune=DSTSPConfig(t=None, spike_cap=2)),
    ],
    ids=lambda config: f"{config.depth}-{config.dim}-{config.prune and config.prune.t}",
)
def test_round_trip_through_toml_text(config, toml_text):
    plain = config.to_dict()
    assert SMixerConfig.from_dict(plain) == config
    assert SMixerConfig.from_dict(tomllib.loads(toml_text(plain))) == config


def test_a_dictionary_holds_plain_values_without_none():
    plain = SMixerConfig(prune=DSTSPConfig(t=None)).to_dict()
    assert plain["img_size"] == [32, 32]
    assert plain["strides"] == [1, 1, 1, 2, 2]
    assert plain["prune"] == {
        "ps": 0.3,
        "merge": "softmatch",
        "ranking": "low",
        "w_prime": "gather",
        "active": "both",
        "place": "stem",
    }
    assert "prune" not in SMixerConfig().to_dict()


def test_missing_keys_mean_the_defaults_and_no_limit():
    assert SMixerConfig.from_dict({}) == SMixerConfig()
    assert SMixerConfig.from_dict({"prune": {}}).prune == DSTSPConfig(t=None)
    assert SMixerConfig.from_dict({"prune": {"ps": 0.1, "t": 2}}).prune == DSTSPConfig(ps=0.1, t=2)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"detph": 4}, "SMixerConfig: unknown key 'detph'. Did you mean 'depth'?"),
        ({"prune": {"rankin": "low"}}, "DSTSPConfig: unknown key 'rankin'. Did you mean 'ranking'?"),
        (
            {"prune": {"zzz": 1}},
            "DSTSPConfig: unknown key 'zzz'. Known keys: ps, t, merge, ranking, w_prime, spike_cap, active, place.",
        ),
    ],
)
def test_unknown_keys_are_refused_with_a_suggestion(raw, text):
    with pytest.raises(SettingError) as caught:
        SMixerConfig.from_dict(raw)
    assert str(caught.value) == text


COUNT = "SMixerConfig: {name}={value!r} must be a whole number of at least 1."
SIZES = "SMixerConfig: {name}={value!r} must be {length} whole numbers of at least 1."
POSITIVE = "SMixerConfig: {name}={value!r} must be a positive number."
BETA = "SMixerConfig: beta={value!r} is outside [0, 1]. Pass the membrane decay per step."
BAD = [
    *((n, v, COUNT) for n in ("in_channels", "dim", "depth", "heads", "T") for v in (0, -1, 2.0, True)),
    *(("num_classes", v, COUNT.replace("least 1", "least 0")) for v in (-1, 2.0, True)),
    *(("img_size", v, SIZES) for v in (True, (32,), (32, 32, 32), (0, 32), (-32, 32), (32.0, 32.0), "32")),
    *(("strides", v, SIZES) for v in (2, (1, 1, 2, 2), (1, 1, 1, 2, 0), (1, 1, 1, 2, 2.0), "11122")),
    *((n, v, POSITIVE) for n in ("mlp_ratio", "threshold", "gamma") for v in (0, -1.0, float("nan"), "4", None)),
    *(("beta", v, BETA) for v in (-0.1, 1.1, float("nan"), "0.5")),
]


@pytest.mark.parametrize(("name", "value", "text"), BAD)
def test_bad_values_are_refused(name, value, text):
    with pytest.raises(SettingError) as caught:
        SMixerConfig(**{name: value})
    assert str(caught.value) == text.format(name=name, value=value, length=2 if name == "img_size" else 5)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"img_size": (32, 30)},
            "SMixerConfig: img_size=(32, 30) is no multiple of the stem's total stride 4. "
            "Choose another size or other strides.",
        ),
        ({"dim": 100}, "SMixerConfig: dim=100 must be a multiple of 8 and of heads=16."),
        ({"dim": 104}, "SMixerConfig: dim=104 must be a multiple of 8 and of heads=16."),
        (
            {"mixer": "mlp"},
            "SMixerConfig: mixer='mlp' is unknown. Expected one of smixer, ssa. Pass one of these.",
        ),
        (
            {"T": 2, "prune": DSTSPConfig(t=3)},
            "SMixerConfig: prune.t=3 is outside 1..T=2. Keep fewer steps.",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values, text):
    with pytest.raises(SettingError) as caught:
        SMixerConfig(**values)
    assert str(caught.value) == text


@pytest.mark.parametrize("prune", [3, "low", [{"ps": 0.1}]])
def test_pruning_must_be_a_table(prune):
    with pytest.raises(SettingError) as caught:
        SMixerConfig.from_dict({"prune": prune})
    assert str(caught.value) == f"DSTSPConfig: expected a table, got {prune!r}. Name the settings."


def test_bad_pruning_is_refused_from_a_dictionary_too():
    with pytest.raises(SettingError, match=r"^DSSP: ps=1.5 is outside \[0, 1\)"):
        SMixerConfig.from_dict({"prune": {"ps": 1.5}})


def test_the_limits_themselves_are_allowed():
    config = SMixerConfig(beta=0, T=2, prune=DSTSPConfig(t=2))
    assert dataclasses.replace(config, beta=1).beta == 1


def test_it_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMixerConfig().depth = 5


def test_one_number_is_the_size_of_a_square():
    assert SMixerConfig(img_size=64) == SMixerConfig(img_size=(64, 64))
    assert dataclasses.replace(SMixerConfig(), img_size=64).num_tokens == 256
    assert SDTV3Config(img_size=64).img_size == SpikformerConfig(img_size=64).img_size == (64, 64)
    with pytest.raises(SettingError, match=r"img_size=\(30, 30\) is no multiple"):
        SMixerConfig(img_size=30)
