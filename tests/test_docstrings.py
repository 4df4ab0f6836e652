"""Every public name has a short example in its docstring, and it runs."""

import doctest
import inspect

import pytest

import snntorch_smixer
from snntorch_smixer import cost, dstsp, events, viz

FACES = (snntorch_smixer, cost, dstsp, events, viz)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS = {"spikingjelly": "spikingjelly", "viz": "matplotlib"}


def public() -> dict[str, object]:
    """What users call or make, by name."""
    names = {f"{face.__name__}.{name}": getattr(face, name) for face in FACES for name in face.__all__}
    return {name: value for name, value in names.items() if inspect.isclass(value) or inspect.isfunction(value)}


@pytest.mark.parametrize("name", public())
def test_the_example_runs(name: str):
    value = public()[name]
    text = inspect.getdoc(value) or ""
    for word, package in NEEDS.items():
        if word in text and ">>>" in text:
            pytest.importorskip(package)
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples, "no example"
    failed = doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed
    assert not failed
