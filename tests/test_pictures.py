"""Pictures of other depths and colours than eight bits of RGB: rescaled, or refused by name."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from snntorch_smixer.errors import CardError
from snntorch_smixer.pictures import read_picture

image = pytest.importorskip("PIL.Image")
GREY, HALF = np.full((4, 6), 128, np.uint8), np.full((4, 6), 128 * 257, np.uint16)
RED = np.full((4, 6, 3), (200, 10, 20), np.uint8)


def png(kind: int, channels: int) -> bytes:
    """Sixteen bits per channel in colours, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    rows = b"".join(b"\0" + np.full(6 * channels, 128 * 257, ">u2").tobytes() for _ in range(4))
    head = (6).to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


MADE = {
    "8.png": (lambda path: image.fromarray(GREY).save(path), (128, 128, 128)),
    "16.png": (lambda path: image.fromarray(HALF).save(path), (128, 128, 128)),
    "16.tif": (lambda path: image.fromarray(HALF).save(path), (128, 128, 128)),
    "16.pgm": (lambda path: path.write_bytes(b"P5 6 4 65535\n" + HALF.astype(">u2").tobytes()), (128, 128, 128)),
    "12.pgm": (lambda path: path.write_bytes(b"P5 6 4 4095\n" + (HALF // 16).astype(">u2").tobytes()), (128,) * 3),
    "rgb16.png": (lambda path: path.write_bytes(png(2, 3)), (128, 128, 128)),
    "la16.png": (lambda path: path.write_bytes(png(4, 2)), (128, 128, 128)),
    "palette.png": (lambda path: image.fromarray(RED).quantize(4).save(path), (200, 10, 20)),
    "glass.png": (
        lambda path: image.fromarray(RED).quantize(4).save(path, transparency=bytes([0, 128, 255, 255])),
        (200, 10, 20),
    ),
    "rgba.png": (lambda path: image.fromarray(np.dstack([RED, GREY])).save(path), (200, 10, 20)),
    "cmyk.jpg": (lambda path: image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(path), (255, 0, 0)),
    "1bit.png": (lambda path: image.new("1", (6, 4), 1).save(path), (255, 255, 255)),
}


@pytest.mark.parametrize("name", MADE)
def test_every_depth_and_colour_arrives_as_eight_bits_of_rgb(tmp_path, name):
    write, expected = MADE[name]
    write(tmp_path / name)
    found = np.asarray(read_picture(tmp_path / name))
    assert (found.shape, found.dtype) == ((4, 6, 3), np.uint8)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_sixteen_bits_keep_their_order_and_ends(tmp_path):
    values = np.array([[0, 128, 129, 32768, 65406, 65407, 65535]], np.uint16)
    image.fromarray(values).save(tmp_path / "x.png")
    assert np.asarray(read_picture(tmp_path / "x.png"))[0, :, 1].tolist() == [0, 0, 1, 128, 254, 255, 255]


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("float.tif", np.full((4, 6), 0.5, np.float32)), ("32bit.tif", np.full((4, 6), 70_000, np.int32))],
)
def test_values_without_a_stated_range_are_refused_by_name(tmp_path, name, pixels):
    image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(CardError) as caught:
        read_picture(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: a picture of mode ")
    assert "expected 8 or 16 bits per channel. Convert it to an 8-bit PNG." in str(caught.value)


ARROW = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
UPRIGHT = {1: ARROW, 2: ARROW[:, ::-1], 3: ARROW[::-1, ::-1], 4: ARROW[::-1], 5: ARROW.T, 6: np.rot90(ARROW, -1)}
UPRIGHT |= {7: ARROW[::-1, ::-1].T, 8: np.rot90(ARROW), 99: ARROW}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_of_the_exif_data_is_applied(tmp_path, orientation):
    exif = image.Exif()
    exif[0x0112] = orientation
    image.fromarray(ARROW).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "x.png"))[..., 0], UPRIGHT[orientation])


def test_exif_data_that_cannot_be_read_do_not_matter(tmp_path):
    image.fromarray(RED).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        assert np.array_equal(np.asarray(read_picture(tmp_path / "x.png")), RED)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "bmp", "ppm"])
def test_a_truncated_picture_is_refused_by_name(tmp_path, ending):
    path: Path = tmp_path / f"x.{ending}"
    image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(CardError, match=rf"x\.{ending}: no readable picture \(.*Get it again, or remove it\."):
        read_picture(path)


def test_a_bomb_is_refused_by_name(tmp_path, monkeypatch):
    image.new("RGB", (16, 4)).save(tmp_path / "x.png")
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(CardError, match=r"x\.png: no readable picture"):
        read_picture(tmp_path / "x.png")
