"""The names that users import: they exist, are described, and bring nothing heavy with them."""

import doctest
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import snntorch_smixer
from snntorch_smixer import cost, dstsp, events, train
from snntorch_smixer.models import network, transform
from snntorch_smixer.zoo import hub

ROOT = Path(__file__).parent.parent
FACES = (snntorch_smixer, dstsp, cost, events, train)
PUBLIC = [(module, name) for module in FACES for name in module.__all__]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_every_public_name_exists_and_is_described(module, name):
    value = getattr(module, name)
    own = value.__doc__ if isinstance(value, ModuleType) else inspect.getdoc(value)
    assert own
    if inspect.isclass(value):
        assert value.__dict__.get("__doc__"), "the docstring is inherited"
        assert not own.startswith(f"{name}("), "the docstring is the one that dataclass writes"


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_public_methods_are_described(module, name):
    value = getattr(module, name)
    methods = inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else []
    ours = [(n, m) for n, m in methods if m.__module__.startswith("snntorch_smixer") and not n.startswith("_")]
    assert [n for n, m in ours if not m.__doc__] == []


@pytest.mark.parametrize("module", FACES, ids=lambda module: module.__name__)
def test_the_list_is_complete_and_without_repetition(module):
    bound = {name for name in vars(module) if not name.startswith("_")}
    submodules = {name for name in bound if isinstance(getattr(module, name), ModuleType)}
    assert bound - (submodules - {"cost", "dstsp"}) == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("module", FACES, ids=lambda module: module.__name__)
def test_dir_shows_the_list_and_no_module_that_is_private(module):
    assert sorted(name for name in dir(module) if not name.startswith("_")) == sorted(module.__all__)
    assert {"__name__", "__doc__", "__all__"} <= set(dir(module))


@pytest.mark.parametrize("module", [network, transform, hub], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_run(module):
    done = doctest.testmod(module)
    assert done.failed == 0
    assert done.attempted


def test_the_layer_prints_under_the_name_of_the_paper():
    layer = snntorch_smixer.SMixer(8, num_tokens=4, heads=2)
    assert repr(layer).startswith("SMixer(\n")
    assert (type(layer).__name__, type(layer).__qualname__) == ("SMixer", "SMixer")


def test_a_pickle_that_names_the_layer_as_before_loads():
    layer = snntorch_smixer.SMixer(8, num_tokens=4)
    before = pickle.dumps(layer, protocol=0).replace(b"mixer\nSMixer\n", b"mixer\nSpikingTokenMixer\n")
    assert b"SpikingTokenMixer" in before
    again = pickle.loads(before)
    assert isinstance(again, snntorch_smixer.SMixer)
    assert again.state_dict().keys() == layer.state_dict().keys()


def test_the_star_brings_the_list():
    namespace: dict[str, object] = {}
    exec("from snntorch_smixer import *", namespace)
    assert set(snntorch_smixer.__all__) <= set(namespace)


def test_the_usual_imports():
    from snntorch_smixer import SMixer, SpikingTokenMixer, create_model, from_pretrained
    from snntorch_smixer.patching.wrap import wrap
    from snntorch_smixer.zoo import hub

    assert SMixer is SpikingTokenMixer
    assert create_model is hub.create_model
    assert from_pretrained is hub.from_pretrained
    assert snntorch_smixer.dstsp is dstsp
    assert dstsp.wrap is wrap


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert snntorch_smixer.__version__ == version("snntorch-smixer")


def test_importing_brings_no_optional_package_and_prints_nothing():
    code = "import sys, snntorch_smixer, snntorch_smixer.dstsp; print(*sys.modules); "
    code += "from snntorch_smixer.train import fit, Recipe, load_data, ImageData; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    modules, with_train = (set(line.split()) for line in done.stdout.splitlines())
    assert {"snntorch_smixer.zoo.hub", "snntorch_smixer.patching.wrap", "torch", "snntorch"} <= modules
    optional = {"torchvision", "PIL", "matplotlib", "pandas", "ultralytics", "accelerate", "nir", "nirtorch"}
    assert with_train & optional == set()
    assert modules & {*optional - {"PIL"}, "safetensors", "huggingface_hub"} == set()
    assert not {name for name in modules if name.startswith(("snntorch_smixer.train", "snntorch_smixer.viz"))}


def test_importing_changes_no_global_setting():
    code = """
import random, numpy, torch, snntorch
def state():
    return (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), random.getstate(),
            str(numpy.random.get_state()), torch.is_grad_enabled(), len(snntorch.SpikingNeuron.instances))
before = state()
import snntorch_smixer
print(state() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
