"""Optional imports, and torchvision beside a torch that it was not built for."""

import subprocess
import sys
import textwrap
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from snntorch_smixer import extras
from snntorch_smixer.errors import MissingExtra, SettingError, SMixerError
from snntorch_smixer.extras import EXTRAS, need, nms, torchvision_ready

ROOT = Path(__file__).parent.parent


needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def fresh_python(code: str) -> str:
    """What ``code`` prints in a new interpreter, where nothing has been imported or repaired yet."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_need_returns_the_module():
    assert need("json", extra="viz") is sys.modules["json"]


def test_need_names_the_extra():
    with pytest.raises(MissingExtra) as caught:
        need("no_such_module", extra="viz")
    assert str(caught.value) == (
        "need: no_such_module is not installed. Expected it for pictures and tables. "
        'Run pip install "snntorch-smixer[viz]".'
    )
    assert isinstance(caught.value, SMixerError)
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == "no_such_module"


def test_need_names_the_module_that_is_missing_below(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"no_such_module \(imported for half_installed\) is not installed"):
        need("half_installed", extra="train")


def test_need_lets_other_import_failures_through(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"^libGL"):
        need("broken_inside", extra="vision")


def test_need_refuses_an_unknown_extra():
    with pytest.raises(SettingError, match="extra='pictures' is unknown"):
        need("json", extra="pictures")


def test_every_extra_exists_in_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) <= set(project["optional-dependencies"])


def test_extras_imports_no_optional_package():
    modules = fresh_python("import sys, snntorch_smixer.extras; print(*sys.modules)").split()
    assert "snntorch_smixer.extras" in modules
    assert not {"torchvision", "matplotlib", "pandas", "accelerate", "ultralytics"} & set(modules)


# Boxes 0 and 1 overlap by 8 x 10 = 80 of 100 + 100 - 80 = 120: intersection over union 2/3. Box 2 lies apart.
# Box 3 covers box 2 by 50 of 50 + 100 - 50 = 100: exactly 1/2.
BOXES = torch.tensor([[0, 0, 10, 10], [2, 0, 12, 10], [20, 0, 30, 10], [20, 0, 30, 5]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("scores", "threshold", "kept"),
    [
        ([0.1, 0.4, 0.3, 0.2], 0.7, [1, 2, 3, 0]),
        ([0.1, 0.4, 0.3, 0.2], 0.6, [1, 2, 3]),
        ([0.1, 0.4, 0.3, 0.2], 0.5, [1, 2, 3]),
        ([0.1, 0.4, 0.3, 0.2], 0.4, [1, 2]),
        ([0.5, 0.5, 0.5, 0.5], 0.4, [0, 2]),
    ],
    ids=["all", "pair", "equal to the threshold stays", "both pairs", "tie: lowest index"],
)
def test_nms_by_hand(scores, threshold, kept):
    assert nms(BOXES, torch.tensor(scores), threshold).tolist() == kept


def test_nms_of_nothing():
    kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert kept.dtype == torch.int64
    assert kept.shape == (0,)


def test_nms_keeps_empty_boxes_apart():
    assert nms(torch.ones(2, 4), torch.tensor([0.2, 0.1]), 0.5).tolist() == [0, 1]


@needs_torchvision
def test_torchvision_works_after_a_failed_import_and_warns_at_most_once():
    printed = fresh_python("""
        import warnings, torch
        try:
            import torchvision
            fits = True
        except RuntimeError:
            fits = False
        from snntorch_smixer.extras import torchvision_ready
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, second = torchvision_ready(), torchvision_ready()
        ours = [w for w in caught if "torchvision's compiled operators" in str(w.message)]
        assert len(ours) == (0 if fits else 1), [str(w.message) for w in caught]
        assert fits or "Install torch and torchvision together" in str(ours[0].message)
        assert first is second
        import torchvision
        assert torchvision is first
        boxes = torch.tensor([[0, 0, 10, 10], [2, 0, 12, 10], [20, 0, 30, 10]], dtype=torch.float32)
        print(torchvision.ops.nms(boxes, torch.tensor([0.1, 0.4, 0.3]), 0.6).tolist())
        print(torchvision.ops.batched_nms(boxes, torch.tensor([0.1, 0.4, 0.3]), torch.tensor([0, 1, 1]), 0.6).tolist())
        from torchvision.transforms import v2
        print(v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape)
    """)
    assert printed.splitlines() == ["[1, 2]", "[1, 2, 0]", "torch.Size([3, 4, 4])"]


@needs_torchvision
def test_torchvision_repair_leaves_missing_operators_missing():
    printed = fresh_python("""
        import warnings, torch
        warnings.simplefilter("ignore")
        from snntorch_smixer.extras import torchvision_ready
        ops = torchvision_ready().ops
        if ops.roi_pool.__globals__["_assert_has_ops"].__globals__["_has_ops"]():
            print("nothing to repair")
        else:
            try:
                ops.roi_pool(torch.zeros(1, 1, 4, 4), [torch.zeros(1, 4)], 1)
            except RuntimeError as error:
                print(error)
    """)
    assert printed.startswith(("nothing to repair", "Couldn't load custom C++ ops"))


def test_torchvision_ready_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtra, match=r"snntorch-smixer\[vision\]"):
        torchvision_ready()


def test_torchvision_ready_lets_other_failures_through(monkeypatch):
    def fail(module, *, extra):
        raise RuntimeError(f"{module}: another reason")

    monkeypatch.setattr(extras, "need", fail)
    with pytest.raises(RuntimeError, match="torchvision: another reason"):
        torchvision_ready()
