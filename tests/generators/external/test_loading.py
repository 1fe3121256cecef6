"""What is said of weights that cannot be used: one message, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import external_weights as tiny
import pytest

from gaussian4d.errors import UserError
from generators.external import checks, loading
from generators.external.licences import licence_of
from generators.external.loading import open_external


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("whole") / "weights")


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break; loading it would fail the test."""

    def loaded(*args: object, **options: object) -> None:
        raise AssertionError("weights were loaded before the checks were over")

    monkeypatch.setattr("generators.external.stable_diffusion.load_pipeline", loaded)
    return shutil.copytree(whole, tmp_path / "weights")


def edit(folder: Path, **entries: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | entries))


def to_pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pointer(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def shard_lost(folder: Path) -> None:
    names = {"a": "diffusion_pytorch_model.safetensors", "b": "diffusion_pytorch_model-00002-of-00002.safetensors"}
    text = json.dumps({"weight_map": names})
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), r"holds no model_index\.json; expected a folder in the layout"),
        (lambda f: (f / "model_index.json").write_text("{"), "is not valid JSON"),
        (lambda f: edit(f, _class_name="FluxPipeline"), "is a FluxPipeline; expected one of AnimateDiffPipeline"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "the component text_encoder/ is missing"),
        (lambda f: (f / "vae" / "config.json").unlink(), r"vae holds no config\.json"),
        (lambda f: edit(f, unet=["my_code", "MyUNet"]), "code that came with the weights; it is never run"),
        (to_pickle, r"diffusion_pytorch_model\.bin is a pickle"),
        (cut_short, r"expected [\d,]+ bytes, got [\d,]+; download it again"),
        (pointer, "cloned without git-lfs"),
        (shard_lost, r"00002-of-00002\.safetensors is missing, one of 2 files"),
    ],
)
def test_broken_folders(copy: Path, change: Callable[[Path], object], message: str) -> None:
    change(copy)
    with pytest.raises(UserError, match=message):
        open_external(str(copy), "image")


def test_another_role(copy: Path) -> None:
    with pytest.raises(UserError, match="is Stable Diffusion, a prior for image; wanted is one for video: AnimateDiff"):
        open_external(str(copy), "video")


def test_a_file_or_nothing_at_all(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is a file; expected a folder"):
        open_external(str(copy / "model_index.json"), "image")
    with pytest.raises(UserError, match=r"there is no folder .*, and it is no hub id"):
        open_external(str(tmp_path / "lost"), "image")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"as a hub id it could not be fetched .*; check the name and the network"):
        open_external("someone/some-weights", "image")


def test_too_little_memory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"billion weights take .* GB as float32, more than the 0\.0 GB free on cpu"):
        open_external(str(copy), "image", device="cpu")


def test_sizes_come_from_headers(whole: Path) -> None:
    counted = checks.parameters(whole / "unet" / "diffusion_pytorch_model.safetensors")
    assert counted == sum(value.numel() for value in tiny.unet().state_dict().values())
    assert checks.free_memory() > 10_000_000


def test_weights_of_another_shape(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "weights")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 16}))
    with pytest.raises(UserError, match="expected weights of Stable Diffusion; loading them failed"):
        open_external(str(folder), "image")


def test_half_precision_files_alone_are_found(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "weights")
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert open_external(str(folder), "image", size=16).info.size == 16
    one = folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    one.rename(one.with_name("diffusion_pytorch_model.safetensors"))
    with pytest.raises(UserError, match=r"has only \.fp16 weights and another component has none"):
        open_external(str(folder), "image")


def test_licences() -> None:
    assert licence_of("Zero123++", "my-folder").licence == "CC-BY-NC-4.0"
    assert licence_of("Stable Diffusion XL", "stabilityai/stable-diffusion-xl-base-1.0").name == "Stable Diffusion XL"
    assert licence_of("Wan image-to-video", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers").licence == "Apache-2.0"
    unknown = licence_of("AnimateDiff", "weights")
    assert unknown.licence == "unknown" and "read the one that came with them" in (unknown.notice or "")
