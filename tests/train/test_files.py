"""One file per input: order, seeds and workers."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.train.files import (
    MOST_WORKERS,
    Files,
    OnDisk,
    check_same_classes,
    default_workers,
    in_order,
    shuffled,
)

SAMPLES = [(Path(str(number)), number % 3) for number in range(10)]


class Noisy:
    """Reads the number that is the file's name, and a random one."""

    def __call__(self, path: Path) -> Tensor:
        return torch.stack([torch.tensor(float(path.name)), torch.rand(())])


class Fails:
    def __call__(self, path: Path) -> Tensor:
        raise CardError(f"{path}: cannot be read.")


def epoch(seed: int, workers: int = 0) -> Tensor:
    torch.manual_seed(seed)
    batches = shuffled(SAMPLES, Noisy(), batch_size=4, workers=workers, axis=0)
    return torch.cat([x for x, _ in batches])


def test_an_epoch_holds_every_file_once_with_its_label():
    batches = list(shuffled(SAMPLES, Noisy(), batch_size=4, workers=0, axis=1))
    assert [tuple(x.shape) for x, _ in batches] == [(2, 4), (2, 4), (2, 2)]
    numbers = torch.cat([x[0] for x, _ in batches]).long()
    assert sorted(numbers.tolist()) == list(range(10))
    assert numbers.tolist() != list(range(10))
    assert torch.equal(torch.cat([labels for _, labels in batches]), numbers % 3)


def test_the_seed_decides_order_and_draws():
    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    torch.manual_seed(1)
    first, second = (next(shuffled(SAMPLES, Noisy(), batch_size=10, workers=0, axis=0))[0] for _ in range(2))
    drawn = [dict(zip(x[:, 0].tolist(), x[:, 1].tolist(), strict=True)) for x in (first, second)]
    assert all(drawn[0][number] != drawn[1][number] for number in range(10)), "another epoch, other draws"
    assert len(set(drawn[0].values())) == 10


# Python 3.12 and later warn of every fork beside threads, which torch starts.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_change_nothing():
    assert torch.equal(epoch(3, workers=2), epoch(3))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_error_in_a_worker_keeps_its_type_and_names_the_file():
    with pytest.raises(CardError, match="0: cannot be read"):
        list(in_order(SAMPLES, Fails(), batch_size=4, workers=1, axis=0))


def test_reading_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    [*in_order(SAMPLES, Noisy(), batch_size=4, workers=0, axis=0)]
    assert torch.equal(torch.rand(3), expected)


def test_in_order():
    batches = list(in_order(SAMPLES, Noisy(), batch_size=4, workers=0, axis=0))
    assert torch.cat([x[:, 0] for x, _ in batches]).tolist() == list(range(10))


def test_files_can_be_sent_to_a_worker():
    files = pickle.loads(pickle.dumps(Files(SAMPLES, Noisy(), seed=3)))
    assert torch.equal(files[4][0], Files(SAMPLES, Noisy(), seed=3)[4][0])


def test_workers_by_default():
    assert 1 <= default_workers() <= MOST_WORKERS


def test_other_classes(tmp_path):
    check_same_classes(tmp_path, tmp_path, (("a", "b"), ("a", "b")))
    with pytest.raises(CardError) as caught:
        check_same_classes(tmp_path / "train", tmp_path / "val", (("a", "b"), ("images",)))
    assert str(caught.value) == (
        f"{tmp_path / 'train'} and {tmp_path / 'val'} must have the same class folders: got 2 and 1, and 'a' is in one "
        "only. Sort the files of both into one folder per class."
    )


class Split(OnDisk):
    def __init__(self, root: Path, count: int) -> None:
        self.train = [(root / f"{number}.png", number % 2) for number in range(count)]
        self.test = self.train[:1]


def test_the_fingerprint_is_of_names_labels_and_bytes(tmp_path, monkeypatch):
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
        for number in range(9):
            (tmp_path / folder / f"{number}.png").write_bytes(bytes([number]))
    found = Split(tmp_path / "here", 9).fingerprint()
    assert Split(tmp_path / "elsewhere", 9).fingerprint() == found, "the same files in another folder"
    assert Split(tmp_path / "here", 8).fingerprint() != found
    relabelled = Split(tmp_path / "here", 9)
    relabelled.train[3] = (relabelled.train[3][0], 0)
    assert relabelled.fingerprint() != found
    (tmp_path / "here" / "8.png").write_bytes(b"another")
    assert Split(tmp_path / "here", 9).fingerprint() != found
