"""Mean average precision against the definition, written out."""

import pytest
import torch

from snntorch_smixer.detect import Precision, average_precision
from snntorch_smixer.errors import LayoutError, SettingError

OVERLAPS = [0.5 + 0.05 * i for i in range(10)]


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared)


def precision_of_class(found, wanted, kind: int, least: float) -> float:
    """The best box first, each takes the free object that it overlaps most; precision at 101 recalls."""
    boxes = {i: [b for b, k in zip(*one, strict=True) if k == kind] for i, one in enumerate(wanted)}
    free = {i: list(range(len(b))) for i, b in boxes.items()}
    order = sorted(
        ((s, i, b) for i, one in enumerate(found) for b, s, k in zip(*one, strict=True) if k == kind),
        key=lambda entry: -entry[0],
    )
    hits = []
    for _, i, box in order:
        best = max(free[i], key=lambda j: overlap(box, boxes[i][j]), default=None)
        hit = best is not None and overlap(box, boxes[i][best]) >= least
        if hit:
            free[i].remove(best)
        hits.append(hit)
    total = sum(map(len, boxes.values()))
    curve = [(sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    # Recalls as torchmetrics rounds them, in float32: three objects of five do not reach its 0.6.
    recalls = torch.linspace(0, 1, 101).tolist()
    return sum(max((p for r, p in curve if r >= at), default=0.0) for at in recalls) / 101


def by_hand(found, wanted, kinds, overlaps) -> float:
    present = [k for k in kinds if any(k in one[1] for one in wanted)]
    values = [precision_of_class(found, wanted, k, least) for k in present for least in overlaps]
    return sum(values) / len(values)


def random_case(seed: int):
    g = torch.Generator().manual_seed(seed)
    found, wanted = [], []
    for _ in range(4):
        count = int(torch.randint(1, 5, (1,), generator=g))
        corner, side = torch.rand(count, 2, generator=g) * 60, 8 + torch.rand(count, 2, generator=g) * 30
        boxes = torch.cat([corner, corner + side], 1)
        labels = torch.randint(3, (count,), generator=g)
        moved = torch.cat([boxes + torch.randn(count, 4, generator=g) * 1.5, torch.tensor([[0.0, 0, 30, 30]])])
        wanted.append({"boxes": boxes, "labels": labels})
        guess = torch.cat([labels, torch.randint(3, (1,), generator=g)])
        found.append({"boxes": moved, "labels": guess, "scores": torch.rand(count + 1, generator=g)})
    return found, wanted


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_definition(seed):
    found, wanted = random_case(seed)
    got = average_precision(found, wanted, names=("a", "b", "c"))
    plain_found = [(f["boxes"].tolist(), f["scores"].tolist(), f["labels"].tolist()) for f in found]
    plain_wanted = [(w["boxes"].tolist(), w["labels"].tolist()) for w in wanted]
    assert got.map50 == pytest.approx(by_hand(plain_found, plain_wanted, range(3), [0.5]), abs=1e-4)
    assert got.map50_95 == pytest.approx(by_hand(plain_found, plain_wanted, range(3), OVERLAPS), abs=1e-4)
    for kind, name in enumerate("abc"):
        if name in got.per_class:
            own = by_hand(plain_found, plain_wanted, [kind], OVERLAPS)
            assert got.per_class[name] == pytest.approx(own, abs=1e-4)


def nothing(**more):
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), **more}


BOX = {"boxes": torch.tensor([[2.0, 2.0, 8.0, 8.0]]), "labels": torch.tensor([1])}


def test_a_class_that_no_picture_has_is_not_in_the_mean():
    found = {**BOX, "scores": torch.tensor([0.9])}
    other = {**found, "labels": torch.tensor([0])}
    got = average_precision([found, other], [BOX, nothing()], names=("a", "b"))
    assert got == Precision(1.0, 1.0, {"b": 1.0})


def test_nothing_found_is_zero():
    assert average_precision([nothing(scores=torch.zeros(0))], [BOX]).map50 == 0


def test_nothing_wanted_is_refused():
    with pytest.raises(SettingError, match="nothing to find"):
        average_precision([nothing(scores=torch.zeros(0))], [nothing()])


def test_other_lengths_and_shapes_are_refused():
    with pytest.raises(LayoutError, match="found in 0 pictures, and wanted in 1"):
        average_precision([], [BOX])
    with pytest.raises(LayoutError, match="picture 0 has"):
        average_precision([BOX], [BOX])
    with pytest.raises(LayoutError, match="picture 0 has"):
        average_precision([{**BOX, "scores": torch.rand(2)}], [BOX])
