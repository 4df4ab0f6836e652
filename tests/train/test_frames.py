"""Event frames in SpikingJelly's layout, from files written here."""

import numpy as np
import pytest
import torch

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.train.frames import frame_folder
from snntorch_smixer.train.recipe import Recipe

PLAIN = Recipe(batch_size=3, crop_padding=0, flip=False)


def frames(seed: int, steps: int = 3, side: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.7, size=(steps, 2, side, side)).astype(np.float32)


def write(path, values: np.ndarray, key: str = "frames") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: values})


@pytest.fixture
def root(tmp_path):
    for label, name in enumerate(("0", "1", "10")):
        for number in range(4):
            write(tmp_path / "train" / name / f"{number}.npz", frames(10 * label + number))
        write(tmp_path / "test" / name / "x.npz", frames(100 + label))
    return tmp_path


def test_what_is_found(root):
    data = frame_folder(root, workers=0)
    assert (data.train_count, data.test_count, data.classes, data.shape) == (12, 3, ("0", "1", "10"), (3, 2, 4, 4))
    assert (data.mean, data.std) == ((), ())


def test_training_batches_have_the_steps_first(root):
    batches = list(frame_folder(root, workers=0).train_batches(PLAIN))
    assert [tuple(x.shape) for x, _ in batches] == [(3, 3, 2, 4, 4)] * 4
    everything = {frames(10 * label + number).tobytes(): label for label in range(3) for number in range(4)}
    found = {
        x[:, sample].contiguous().numpy().tobytes(): int(labels[sample])
        for x, labels in batches
        for sample in range(len(labels))
    }
    assert found == everything


def test_test_batches_are_in_order(root):
    [(x, labels)] = frame_folder(root, workers=0).test_batches()
    assert labels.tolist() == [0, 1, 2]
    assert torch.equal(x, torch.stack([torch.from_numpy(frames(100 + label)) for label in range(3)], 1))


def test_the_folder_that_spikingjelly_makes_is_found_in_its_root(root, tmp_path):
    inner = tmp_path / "data" / "frames_number_16_split_by_number"
    inner.parent.mkdir()
    for split in ("train", "test"):
        (root / split).rename((inner.mkdir(exist_ok=True) or inner) / split)
    (inner.parent / "events_np").mkdir()
    assert frame_folder(inner.parent, workers=0).train_count == 12
    (inner.parent / "frames_number_8_split_by_number").mkdir()
    with pytest.raises(CardError) as caught:
        frame_folder(inner.parent)
    assert str(caught.value) == (
        f"{inner.parent} holds frames_number_16_split_by_number, frames_number_8_split_by_number; expected one. Pass "
        "the one with the net's T."
    )


def test_the_first_share_of_each_class_by_name_is_for_training(tmp_path):
    # Names sort as strings: 0, 1, 10, 2, ..., 9, so the last of eleven is 9.
    for name in ("cat", "dog"):
        for number in range(11):
            write(tmp_path / name / f"{name}_{number}.npz", frames(number))
    data = frame_folder(tmp_path, train_share=0.9, workers=0)
    assert (data.train_count, data.test_count) == (20, 2)
    assert [path.name for path, _ in data.test] == ["cat_9.npz", "dog_9.npz"]
    with pytest.raises(CardError, match="train is no folder"):
        frame_folder(tmp_path)


def test_all_steps_of_a_recording_move_alike(tmp_path):
    values = np.arange(1, 33, dtype=np.float32).reshape(1, 2, 4, 4).repeat(3, 0)
    for number in range(20):
        write(tmp_path / "train" / "a" / f"{number}.npz", values)
    write(tmp_path / "test" / "a" / "0.npz", values)
    [(x, _)] = frame_folder(tmp_path, workers=0).train_batches(Recipe(batch_size=20, crop_padding=1))
    assert x.shape == (3, 20, 2, 4, 4)
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])
    assert len(x[0].flatten(1).unique(dim=0)) > 5
    assert torch.equal((x[0, :, 1] - x[0, :, 0]).unique(), torch.tensor([0.0, 16.0])), "both polarities move alike"


def test_the_seed_decides(root):
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(torch.cat([x for x, _ in frame_folder(root, workers=0).train_batches(Recipe(batch_size=5))], 1))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_rand_augment_is_refused(root):
    with pytest.raises(SettingError) as caught:
        frame_folder(root, workers=0).train_batches(Recipe(randaugment_ops=1))
    assert str(caught.value) == "FrameData: randaugment_ops=1 needs pictures, got event frames. Set it to 0."


def test_whole_numbers_are_read_too(root):
    for path in sorted((root / "test").rglob("*.npz")):
        write(path, np.full((3, 2, 4, 4), 200, np.uint8))
    [(x, _)] = frame_folder(root, workers=0).test_batches()
    assert (x.dtype, float(x.min())) == (torch.float32, 200.0)


def last(root):
    return root / "test" / "10" / "x.npz"


def refused(root) -> str:
    with pytest.raises(CardError) as caught:
        list(frame_folder(root, workers=0).test_batches())
    return str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "objects", "another key", "an array"])
def test_a_corrupt_file_is_named(root, damage):
    path = last(root)
    whole = path.read_bytes()
    if damage == "objects":
        write(path, np.array([{"an": "object"}], dtype=object))
    elif damage == "another key":
        write(path, frames(0), key="t")
    elif damage == "an array":
        with path.open("wb") as file:
            np.save(file, frames(0))
    else:
        path.write_bytes({"truncated": whole[:-40], "empty": b"", "text": b"no frames"}[damage])
    assert refused(root) == f"{path}: holds no readable array 'frames'. Integrate the recording again."


def test_other_numbers_of_steps(root):
    write(last(root), frames(0, steps=5))
    assert refused(root) == (
        f"{last(root)}: frames (5, 2, 4, 4), those of the first file are (3, 2, 4, 4) (T, polarity, H, W). Integrate "
        "all recordings alike."
    )


@pytest.mark.parametrize("values", [np.zeros((3, 4, 4)), np.zeros((3, 1, 4, 4)), np.array(["a"])])
def test_what_is_no_frames(root, values):
    write(last(root), values)
    assert refused(root) == (
        f"{last(root)}: 'frames' is {values.dtype} {values.shape}, expected numbers (T, 2, H, W). Integrate the "
        "recording again."
    )


@pytest.mark.parametrize(
    ("value", "odd"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "negative values"), (-1, "negative values")]
)
def test_counts_that_are_no_counts_are_refused_by_name(root, value, odd):
    values = frames(0)
    values[1, 0, 2, 3] = value
    write(last(root), values)
    assert refused(root) == (
        f"{last(root)}: 'frames' holds {odd}, expected numbers of events, finite and at least 0. Integrate the "
        "recording again."
    )


def test_a_number_that_float32_cannot_hold_is_no_count(root):
    write(last(root), np.full((3, 2, 4, 4), 1e300))
    assert "holds infinity" in refused(root)


def test_frames_without_a_step_are_no_frames(root):
    write(last(root), np.zeros((0, 2, 4, 4)))
    assert "'frames' is float64 (0, 2, 4, 4), expected numbers (T, 2, H, W)." in refused(root)


def test_a_class_that_is_left_without_a_test_recording_is_named(tmp_path):
    for name, count in (("cat", 11), ("dog", 9)):
        for number in range(count):
            write(tmp_path / name / f"{number}.npz", frames(number))
    with pytest.raises(CardError) as caught:
        frame_folder(tmp_path, train_share=0.9, workers=0)
    assert str(caught.value) == (
        f"frame_folder: {tmp_path / 'dog'} has so few recordings that none is left for the test. Add some, or sort the "
        "recordings into train and test."
    )


def test_missing_folders_and_files(root, tmp_path):
    last(root).unlink()
    assert refused(root) == f"frame_folder: {last(root).parent} has no .npz files. Add them, or remove the folder."
    last(root).parent.rmdir()
    assert "got 3 and 2, and '10' is in one only" in refused(root)
    (root / "test").rename(root / "val")
    assert refused(root) == (
        f"frame_folder: {root / 'test'} is no folder. Expected one folder per class, with one .npz file per recording, "
        "as SpikingJelly writes them with data_type='frame'."
    )
    (root / "test").mkdir()
    assert "has no class folders." in refused(root)
