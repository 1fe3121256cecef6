"""Decoding: every kind of file, headers before pixels, bounded size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d.errors import UserError
from generators.inputs import pictures
from generators.inputs.pictures import read_picture


def ramp(height: int = 12, width: int = 20) -> np.ndarray:
    """Returns uint8 [H, W, 4], everywhere different, transparent on the left."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 9, rows + columns, np.where(columns < 4, 0, 255)], axis=-1).astype(np.uint8)


def test_alpha_is_multiplied_in(tmp_path: Path) -> None:
    image = ramp()
    Image.fromarray(image).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    straight = image.astype(np.float32) / 255
    assert found.alpha and found.pixels.dtype == np.float32 and found.notes == ()
    np.testing.assert_allclose(found.pixels[..., 3], straight[..., 3])
    np.testing.assert_allclose(found.pixels[..., :3], straight[..., :3] * straight[..., 3:], atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1"])
def test_modes_without_alpha(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(ramp()[..., :3]).convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    source.save(file)
    found = read_picture(file)
    assert not found.alpha and (found.pixels[..., 3] == 1).all()
    np.testing.assert_allclose(found.pixels[..., :3] * 255, np.asarray(source.convert("RGB")), atol=1e-3)


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.fromarray(ramp()[..., :3]).quantize(8)
    image.save(tmp_path / "p.png", transparency=3)
    found = read_picture(tmp_path / "p.png")
    assert found.alpha
    np.testing.assert_array_equal(found.pixels[..., 3] == 0, np.asarray(image) == 3)


def test_sixteen_bits_keep_their_range_and_transparent_value(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 240).reshape(12, 20).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "wide.png")
    found = read_picture(tmp_path / "wide.png")
    np.testing.assert_allclose(found.pixels[..., 0], values / 65535, atol=1e-4)
    Image.fromarray(values).save(tmp_path / "keyed.png", transparency=int(values[3, 3]))
    keyed = read_picture(tmp_path / "keyed.png")
    assert keyed.alpha and keyed.pixels[3, 3, 3] == 0 and (keyed.pixels[..., 3] == 0).sum() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(ramp()[..., :3])
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    found = read_picture(tmp_path / "turned.png")
    np.testing.assert_allclose(found.pixels[..., :3] * 255, expected, atol=1e-3)
    assert bool(found.notes) == (orientation != 1)


def test_a_large_picture_is_averaged_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_STRIP_PIXELS", 60)
    image = np.concatenate([ramp(30, 40)[..., :3], np.full((30, 40, 1), 255, np.uint8)], axis=-1)
    Image.fromarray(image).save(tmp_path / "large.png")
    found = read_picture(tmp_path / "large.png", max_side=10)
    blocks = image.astype(np.float32)[:28].reshape(7, 4, 10, 4, 4).mean(axis=(1, 3)) / 255
    assert found.pixels.shape == (8, 10, 4) and "40x30: read at 10x8" in found.notes[0]
    np.testing.assert_allclose(found.pixels[:7], blocks, atol=1e-6)


def test_a_large_jpeg_is_decoded_small(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), (200, 40, 40)).save(tmp_path / "large.jpg")
    found = read_picture(tmp_path / "large.jpg", max_side=500)
    assert found.pixels.shape == (375, 500, 4)
    np.testing.assert_allclose(found.pixels[100, 100], [200 / 255, 40 / 255, 40 / 255, 1], atol=0.02)


def header_only(path: Path, width: int, height: int) -> None:
    """Writes a PNG file that says how large it is and holds nothing."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize(("width", "height"), [(13000, 13000), (60000, 60000)])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, width: int, height: int) -> None:
    header_only(tmp_path / "huge.png", width, height)
    with pytest.raises(UserError, match="128 million"):
        read_picture(tmp_path / "huge.png")


@pytest.mark.parametrize("what", ["missing", "text", "cut", "pixel", "folder"])
def test_messages(tmp_path: Path, what: str) -> None:
    file = tmp_path / "x.png"
    if what == "text":
        file.write_text("no picture")
    elif what == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:3000])
    elif what == "pixel":
        Image.new("RGBA", (1, 1)).save(file)
    elif what == "folder":
        file.mkdir()
    expected = {
        "missing": "found no file",
        "text": "expected an image",
        "cut": "damaged",
        "pixel": "8x8",
        "folder": "--video",
    }
    with pytest.raises(UserError, match=expected[what]) as caught:
        read_picture(file)
    assert "x.png" in str(caught.value)
