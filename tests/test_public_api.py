"""The names that users import: they exist, are described, and bring nothing heavy with them."""

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import snntorch_smixer
from snntorch_smixer import cost, dstsp

ROOT = Path(__file__).parent.parent
PUBLIC = [(module, name) for module in (snntorch_smixer, dstsp, cost) for name in module.__all__]


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


@pytest.mark.parametrize("module", [snntorch_smixer, dstsp, cost], ids=lambda module: module.__name__)
def test_the_list_is_complete_and_without_repetition(module):
    bound = {name for name in vars(module) if not name.startswith("_")}
    submodules = {name for name in bound if isinstance(getattr(module, name), ModuleType)}
    assert bound - (submodules - {"cost", "dstsp"}) == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


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
    code = "import sys, snntorch_smixer, snntorch_smixer.dstsp; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    modules = set(line.split())
    assert {"snntorch_smixer.zoo.hub", "snntorch_smixer.patching.wrap", "torch", "snntorch"} <= modules
    assert modules & {"torchvision", "matplotlib", "pandas", "ultralytics", "accelerate", "nir", "nirtorch"} == set()
    assert modules & {"safetensors", "huggingface_hub"} == set()
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
