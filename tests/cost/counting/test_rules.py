"""Every operation has one class, every class a name that torch knows, and every free operation a stated rule."""

import ast
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer.cost import measure
from snntorch_smixer.cost.count import ops
from snntorch_smixer.cost.count.products import PRODUCTS
from snntorch_smixer.cost.records import COUNTS, Records

CLASSES = {kind.name: frozenset(" ".join(r[3] for r in ops._ROWS if r[0] is kind).split()) for kind in ops.Kind}
CLASSES["MOVING"] |= CLASSES["SAME_VALUES"]
rules = SimpleNamespace(**{**vars(ops), **CLASSES})
NEWER = {"_fused_rms_norm", "_safe_softmax", "_batch_norm_with_update"}
"""Younger than the oldest torch that we take."""


@pytest.mark.parametrize(("first", "second"), list(combinations(sorted(CLASSES), 2)))
def test_no_name_is_in_two_classes(first: str, second: str):
    if {first, second} == {"MOVING", "SAME_VALUES"}:
        assert CLASSES["SAME_VALUES"] < CLASSES["MOVING"]
    else:
        assert not CLASSES[first] & CLASSES[second]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_names_of_a_class(name: str):
    """None of them is a product, and torch has each, perhaps in place only."""
    assert CLASSES[name]
    assert not CLASSES[name] & set(PRODUCTS)
    aten = torch.ops.aten
    unknown = {n for n in CLASSES[name] if not hasattr(aten, n) and not hasattr(aten, f"{n}_")}
    assert unknown <= NEWER


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_names_are_those_that_are_looked_up(name: str):
    assert {rules.plain_name(n) for n in CLASSES[name]} <= CLASSES[name]


@pytest.mark.parametrize(
    ("name", "plain"),
    [("add_", "add"), ("add", "add"), ("index_put_", "index_put"), ("__iand__", "__iand__"), ("_softmax", "_softmax")],
)
def test_plain_name(name: str, plain: str):
    assert rules.plain_name(name) == plain


def used_rules() -> set[str]:
    """Rules and kinds that the counting modules name, apart from where they are listed."""
    paths = Path(ops.__file__).parent.glob("*.py")
    parts = [part for path in paths for part in ast.parse(path.read_text(encoding="utf-8")).body]
    listed = {"RULES", "_ROWS"}
    parts = [part for part in parts if getattr(getattr(part, "target", None), "id", None) not in listed]
    nodes = [node for part in parts for node in ast.walk(part)]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return names | {n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) in ("ops", "Kind")}


def test_every_rule_is_stated_and_used():
    texts = {name for name, value in vars(rules).items() if name.isupper() and isinstance(value, str)}
    assert {getattr(rules, name) for name in texts} == set(rules.RULES)
    assert texts <= used_rules()
    assert all(rules.RULES.values())
    assert set(CLASSES) <= used_rules()


class Op(nn.Module):
    """One operation, and a parameter for it."""

    def __init__(self, op: Callable) -> None:
        super().__init__()
        self.op, self.w, self.fc = op, nn.Parameter(torch.rand(6)), nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self, x)


def ran(op: Callable) -> Records:
    x = torch.linspace(0.1, 1.2, 12).reshape(2, 6)
    return measure(Op(op), x)


def counted(op: Callable) -> dict[str, int]:
    """Counts outside linear maps."""
    records = ran(op)
    assert records.coverage == 1
    own = [record for record in records.layers if record.op == "elementwise"]
    return {name: total for name in COUNTS if (total := sum(record[name] for record in own))}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (lambda m, x: x + x.flip(0), {"adds": 12}),
        (lambda m, x: x + m.w, {"adds": 12}),
        (lambda m, x: x.sub_(x.flip(0)), {"adds": 12}),
        (lambda m, x: x.sum(1), {"adds": 12}),
        (lambda m, x: x.mean(), {"adds": 12}),
        (lambda m, x: F.avg_pool1d(x[None], 3), {"adds": 12}),
        (lambda m, x: x * m.w, {"muls": 12}),
        (lambda m, x: x / m.w, {"muls": 12}),
        (lambda m, x: x * x.flip(0), {"gates": 24}),
        (lambda m, x: x * x[:, :1], {"gates": 24}),
        (lambda m, x: x / x.flip(0), {"special": 12}),
        (lambda m, x: 1 / x, {"special": 12}),
        (lambda m, x: m.w / x, {"special": 12}),
        (lambda m, x: x.exp(), {"special": 12}),
        (lambda m, x: x.softmax(1), {"special": 12}),
        (lambda m, x: x.var(1), {"special": 12}),
        (lambda m, x: F.layer_norm(x, (6,)), {"special": 12}),
        (lambda m, x: torch.addcmul(x, x, x), {"muls": 12, "adds": 12}),
        (lambda m, x: torch.addcdiv(x, x, x), {"special": 12, "adds": 12}),
        (lambda m, x: x.relu(), {"compares": 12}),
        (lambda m, x: x.amax(1), {"compares": 12}),
        (lambda m, x: x.clamp(0, 1), {"compares": 12}),
        (lambda m, x: F.max_pool1d(x[None], 3), {"compares": 8}),  # 2 for each of 4 results
        (lambda m, x: F.max_pool2d(x[None], 2), {"compares": 9}),  # 3 for each of 3
        (lambda m, x: x.sort(1)[0], {"compares": 36}),  # 12 * 3
        (lambda m, x: x.topk(2, 1)[0], {"compares": 36}),
        (lambda m, x: x.argmax(1), {"compares": 12}),
        (lambda m, x: x == x.flip(0), {"compares": 12}),
        (lambda m, x: torch.bucketize(x, torch.arange(6.0)), {"compares": 36}),  # 3 for 7 buckets
        (lambda m, x: torch.searchsorted(m.w.sort()[0], x), {"compares": 36}),
        (lambda m, x: F.fold(x[None, :, :].reshape(1, 4, 3), (2, 4), 2), {"adds": 12}),
        (lambda m, x: F.fold(x.reshape(1, 4, 3), (1, 4), 2, padding=(1, 0), stride=(2, 1)), {"adds": 6}),  # 6 outside
        (lambda m, x: torch.zeros(3, 6).index_put((torch.tensor([0, 0]),), x, accumulate=True), {"adds": 12}),
        (lambda m, x: (x > 0.45) & (x.flip(0) > 0.45), {"compares": 24, "gates": 16}),  # 8 are larger
        (lambda m, x: (x > 0.45) * (x.flip(0) > 0.45), {"compares": 24, "gates": 16}),
        (lambda m, x: torch.logical_and(x, x.flip(0) > 0.45), {"compares": 12, "gates": 20}),
        (lambda m, x: (x > 0.45) | (x.flip(0) > 0.45), {"compares": 36}),
        (lambda m, x: (x > 0.5) & (m.w > 0.5), {"compares": 12}),
        (lambda m, x: m.norm(x), {"muls": 12, "adds": 12}),
        (lambda m, x: m.norm(m.fc(x)), {"batch_norm": 12}),
    ],
)
def test_what_operations_cost(op: Callable, expected: dict[str, int]):
    assert counted(op) == expected


@pytest.mark.parametrize(
    ("op", "rule"),
    [
        (lambda m, x: x.reshape(3, 4).T.flip(0), rules.MOVES),
        (lambda m, x: x[:, [0, 2]], rules.MOVES),
        (lambda m, x: F.fold(x.reshape(1, 4, 3), (2, 6), 2, stride=2), rules.MOVES),
        (lambda m, x: torch.zeros(3, 6).index_put((torch.tensor([0, 2]),), x), rules.MOVES),
        (lambda m, x: torch.rand(2, 6), rules.MAKES),
        (lambda m, x: F.pad(x, (1, 1)), rules.MOVES),
        (lambda m, x: x.double(), rules.CASTS),
        (lambda m, x: torch.zeros(3), rules.MAKES),
        (lambda m, x: m.w.exp(), rules.CONSTANT),
        (lambda m, x: m.w @ m.fc.weight, rules.CONSTANT),
        (lambda m, x: 3 * x / 2, rules.FACTOR),
        (lambda m, x: -x, rules.FACTOR),
        (lambda m, x: m.fc(x) + m.w, rules.BIAS),
        (lambda m, x: x.isnan(), rules.LOGIC),
        (lambda m, x: F.dropout(x, 0.5), rules.NOISE),
    ],
)
def test_what_is_free(op: Callable, rule: str):
    assert counted(op) == {}
    assert rule in ran(op).free
    assert set(ran(op).free) <= set(rules.RULES)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (lambda x: torch.bernoulli(x / 2), "aten.bernoulli.default"),
        (torch.rand_like, "aten.rand_like.default"),
        (lambda x: x.clone().uniform_(), "aten.uniform_.default"),
        (
            lambda x: torch.zeros(2, 6).scatter(0, torch.zeros(2, 6, dtype=torch.long), x, reduce="add"),
            "aten.scatter.reduce",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The reduce argument:UserWarning")
def test_noise_and_sums_on_data_are_not_free(op: Callable, name: str):
    assert [entry.op for entry in ran(lambda m, x: op(x)).uncounted] == [name]


def test_what_nothing_covers():
    records = ran(lambda m, x: x.cumsum(1))
    (entry,) = records.uncounted
    assert (entry.op, entry.calls, entry.elements) == ("aten.cumsum.default", 1, 12)
    assert records.coverage == 0


@pytest.mark.parametrize(
    ("op", "rule"),
    [
        (lambda m, x: torch.zeros(0).set_(x), rules.MOVES),
        (lambda m, x: torch.zeros(2, 6).copy_(x), rules.MOVES),
        (lambda m, x: x.clone().fill_(1), rules.MAKES),
        (lambda m, x: x.clone().zero_(), rules.MAKES),
    ],
    ids=["set", "copy", "fill", "zero"],
)
def test_what_writes_memory_is_free(op: Callable, rule: str):
    records = ran(op)
    assert (records.uncounted, records.coverage) == ((), 1)
    assert records.free[rule] >= 1
    assert counted(op) == {}


def test_names_of_what_works_in_place_only():
    assert {"set", "copy"} <= rules.MOVING
    assert {"fill", "zero"} <= rules.MAKING
    assert not any(name.endswith("_") for names in CLASSES.values() for name in names)
