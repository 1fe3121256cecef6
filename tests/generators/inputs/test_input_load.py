"""From files to framed pictures: stills, animations, folders, videos; and how the object is framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d.errors import UserError
from generators.inputs import load_image, load_video
from generators.inputs.recentre import recentre
from generators.inputs.videos import read_clip


def square(
    left: int = 30, top: int = 10, side: int = 20, value: int = 200, shape: tuple[int, int] = (60, 100)
) -> np.ndarray:
    """Returns uint8 [H, W, 4] with an opaque square."""
    picture = np.zeros((*shape, 4), np.uint8)
    picture[top : top + side, left : left + side] = (value, 50, 0, 255)
    return picture


def test_recentred_object_fills_its_share() -> None:
    frame = square().astype(np.float32) / 255
    framed = recentre([frame], share=0.5, size=80)
    alpha = framed.frames[0, 3]
    assert framed.frames.shape == (1, 4, 80, 80) and framed.frames.dtype == np.float32
    covered = np.flatnonzero(alpha.max(axis=0) > 0.5)
    assert abs(len(covered) - 40) <= 1 and abs(covered.mean() - 39.5) <= 0.5
    assert abs(alpha.mean() - 0.25) < 0.01 and "only 20 pixels" in framed.notes[0]
    assert (framed.frames[0, :3] <= alpha + 1e-6).all()


def test_a_video_is_framed_by_all_its_frames() -> None:
    frames = [square(left=left).astype(np.float32) / 255 for left in (10, 60)]
    framed = recentre(frames, share=1.0, size=70)
    assert framed.box == (10.0, -15.0, 70.0)
    assert framed.frames[0, 3, 35, 5] > 0.9 and framed.frames[0, 3, 35, 60] < 0.1
    assert framed.frames[1, 3, 35, 5] < 0.1 and framed.frames[1, 3, 35, 60] > 0.9


def test_size_follows_the_object() -> None:
    frame = square(side=20).astype(np.float32) / 255
    assert recentre([frame]).frames.shape[-1] == 64
    assert recentre([np.kron(frame, np.ones((10, 10, 1), np.float32))]).frames.shape[-1] == 256
    assert recentre([np.kron(frame, np.ones((40, 40, 1), np.float32))]).frames.shape[-1] == 512


def test_odd_objects_are_said() -> None:
    cut = recentre([square(left=80).astype(np.float32) / 255])
    assert "cut off at the right" in cut.notes[0] and "only 20 pixels" in cut.notes[1]
    with pytest.raises(UserError, match="only 4 pixels"):
        recentre([square(side=4).astype(np.float32) / 255])
    with pytest.raises(UserError, match="transparent"):
        recentre([np.zeros((20, 20, 4), np.float32)])


def test_folder_in_numeric_order(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(square(value=20 * number)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("x")
    subject = load_video(tmp_path, frames=4, size=64)
    reds = subject.frames[:, 0, 32, 32] * 255
    np.testing.assert_allclose(reds, [0, 80, 140, 220], atol=2)
    assert any("4 of its 12 frames" in note for note in subject.notes)
    assert any("1 other files" in note for note in subject.notes)
    Image.fromarray(square(shape=(60, 90))).save(tmp_path / "frame_11.png")
    with pytest.raises(UserError, match="one size"):
        load_video(tmp_path, frames=4)
    assert load_video(tmp_path, frames=1, size=64).fingerprint != subject.fingerprint


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animated_pictures(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"moving.{ending}"
    pictures = [square(left=10 + 8 * k) for k in range(5)]
    for picture in pictures:
        # Pillow takes a WebP file whose first frame is cut to an opaque square for one without alpha.
        picture[::59, ::99, 3] = 20
    frames = [Image.fromarray(picture) for picture in pictures]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=100, disposal=2, **options)
    clip = read_clip(file, 3)
    assert clip.total == 5 and len(clip.pictures) == 3 and clip.fps == pytest.approx(6.0)
    for picture, left in zip(clip.pictures, (10, 26, 42), strict=True):
        assert np.flatnonzero(picture.pixels[20, :, 3] > 0.5)[0] == left
    still = load_image(file)
    assert len(still.frames) == 1 and "holds 5 frames" in still.notes[0]


def test_video_file(tmp_path: Path) -> None:
    from gaussian4d.video_out import write_video

    frames = []
    for k in range(9):
        frame = np.full((64, 96, 3), 255, np.uint8)
        frame[20:44, 10 + 6 * k : 34 + 6 * k] = (200, 30, 30)
        frames.append(frame)
    write_video(tmp_path / "a.mp4", frames, 12.0)
    subject = load_video(tmp_path / "a.mp4", frames=5, size=64)
    assert subject.frames.shape == (5, 4, 64, 64) and subject.fps == pytest.approx(6.0)
    centres = [(frame[3] * np.arange(64)).sum() / frame[3].sum() for frame in subject.frames]
    assert (np.diff(centres) > 5).all()
    assert any("uniform" in note for note in subject.notes)


def test_one_frame_is_an_image(tmp_path: Path) -> None:
    Image.fromarray(square()).save(tmp_path / "a.png")
    subject = load_video(tmp_path / "a.png")
    assert len(subject.frames) == 1 and any("treated as an image" in note for note in subject.notes)


def test_mask_folder(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 255, (60, 100, 3), np.uint8)).save(tmp_path / f"frames/{k}.png")
        Image.fromarray(square(left=10 + 20 * k)[..., 3]).save(tmp_path / f"masks/{k}.png")
    subject = load_video(tmp_path / "frames", mask=tmp_path / "masks", size=64)
    centres = [(frame[3] * np.arange(64)).sum() / frame[3].sum() for frame in subject.frames]
    assert centres[0] < centres[1] < centres[2]
    (tmp_path / "masks/1.png").unlink()
    with pytest.raises(UserError, match="each of 3 frames, got 2"):
        load_video(tmp_path / "frames", mask=tmp_path / "masks")


@pytest.mark.parametrize("what", ["missing", "empty folder", "no video"])
def test_messages(tmp_path: Path, what: str) -> None:
    source = tmp_path / "x"
    if what == "empty folder":
        source.mkdir()
    elif what == "no video":
        source.write_text("no video")
    with pytest.raises(UserError, match=str(source)):
        load_video(source)
