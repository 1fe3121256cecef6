"""The meta dict: gsplat's keys and layouts, and tile lists that are made only when read."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Any

import pytest
import torch
from rasterizer_scenes import Scene, make_scene

from diff_rasterizer import meta as meta_module
from diff_rasterizer import rasterization
from diff_rasterizer.meta import LazyDict, tile_intersections

KEYS = [
    "batch_ids",
    "camera_ids",
    "gaussian_ids",
    "radii",
    "means2d",
    "depths",
    "conics",
    "opacities",
    "tile_width",
    "tile_height",
    "tiles_per_gauss",
    "isect_ids",
    "flatten_ids",
    "isect_offsets",
    "width",
    "height",
    "tile_size",
    "n_batches",
    "n_cameras",
]


def lazy_dict() -> tuple[LazyDict, list[int]]:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"b": 20, "c": 30}

    return LazyDict({"a": 1, "b": None, "c": None, "d": 4}, ("b", "c"), compute), calls


def test_lazy_values_are_computed_once_and_only_when_read() -> None:
    d, calls = lazy_dict()
    assert list(d) == list(d.keys()) == ["a", "b", "c", "d"] and len(d) == 4
    assert "b" in d and "x" not in d and d["a"] == 1 and d.get("d") == 4 and d.get("x", 9) == 9
    assert repr(d) == "{'a': 1, 'b': ..., 'c': ..., 'd': 4}"
    assert calls == []
    assert d["b"] == 20 and d["c"] == 30 and d.get("b") == 20
    assert calls == [1]


@pytest.mark.parametrize(
    "read",
    [
        lambda d: d.get("b"),
        lambda d: dict(d)["b"],
        lambda d: {**d}["b"],
        lambda d: dict(d.items())["b"],
        lambda d: list(d.values())[1],
        lambda d: d.copy()["b"],
        lambda d: copy.copy(d)["b"],
        lambda d: copy.deepcopy(d)["b"],
        lambda d: (d | {})["b"],
        lambda d: ({} | d)["b"],
        lambda d: pickle.loads(pickle.dumps(d))["b"],
        lambda d: d.pop("b"),
        lambda d: d.setdefault("b", 5),
        lambda d: (lambda b, **_: b)(**d),
        lambda d: next(v for k, v in d.items() if k == "b"),
    ],
)
def test_no_way_of_reading_sees_the_placeholder(read: Any) -> None:
    assert read(lazy_dict()[0]) == 20


def test_writing_wins_over_the_lazy_value() -> None:
    d, calls = lazy_dict()
    d["b"] = 7
    d.update(c=8)
    assert d["b"] == 7 and d["c"] == 8 and calls == []
    d |= {"e": 5}
    assert d["e"] == 5 and isinstance(d, LazyDict)
    assert d == {"a": 1, "b": 7, "c": 8, "d": 4, "e": 5} and d != {}
    e, _ = lazy_dict()
    del e["b"]
    assert "b" not in e and e["c"] == 30
    with pytest.raises(KeyError):
        e["b"]


def brute_force(
    means2d: torch.Tensor,
    radii: torch.Tensor,
    depths: torch.Tensor,
    image_ids: list[int],
    size: int,
    tiles_x: int,
    tiles_y: int,
) -> tuple[list[int], list[int], list[int], dict[tuple[int, int], int]]:
    """Returns counts, isect ids and rows, and intersections per (image, tile), by looping over all tiles."""
    counts, found, per_tile = [], [], {}
    bits = (tiles_x * tiles_y).bit_length()
    for row, image in enumerate(image_ids):
        (x, y), (rx, ry) = means2d[row].tolist(), radii[row].tolist()
        count = 0
        if rx > 0 and ry > 0:
            for ty in range(tiles_y):
                for tx in range(tiles_x):
                    if (
                        x + rx > tx * size
                        and x - rx < (tx + 1) * size
                        and y + ry > ty * size
                        and y - ry < (ty + 1) * size
                    ):
                        depth = struct.unpack("I", struct.pack("f", float(depths[row])))[0]
                        tile = ty * tiles_x + tx
                        found.append((((image << bits) | tile) << 32 | depth, row))
                        per_tile[image, tile] = per_tile.get((image, tile), 0) + 1
                        count += 1
        counts.append(count)
    # Sorted by id; equal ids keep the order of the rows.
    found.sort()
    return counts, [f[0] for f in found], [f[1] for f in found], per_tile


@pytest.mark.parametrize("tile_size", [16, 7])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("batch,cameras", [((), 1), ((2,), 3)])
def test_tile_lists_against_a_loop(packed: bool, tile_size: int, batch: tuple[int, ...], cameras: int) -> None:
    scene = make_scene(n=40, cameras=cameras, batch=batch, dtype=torch.float32)
    # Equal depths in one image.
    scene.means[..., 1, :] = scene.means[..., 0, :]
    _, _, meta = rasterization(**scene.arguments(), packed=packed, tile_size=tile_size, backend="reference")
    tiles_x, tiles_y = -(-scene.width // tile_size), -(-scene.height // tile_size)
    assert (meta["tile_width"], meta["tile_height"], meta["tile_size"]) == (tiles_x, tiles_y, tile_size)
    n_images = cameras * (2 if batch else 1)
    if packed:
        images = (meta["batch_ids"] * cameras + meta["camera_ids"]).tolist()
    else:
        images = [i for i in range(n_images) for _ in range(40)]
    counts, ids, rows, per_tile = brute_force(
        meta["means2d"].reshape(-1, 2),
        meta["radii"].reshape(-1, 2),
        meta["depths"].reshape(-1),
        images,
        tile_size,
        tiles_x,
        tiles_y,
    )
    assert meta["tiles_per_gauss"].dtype == torch.int32 and meta["tiles_per_gauss"].shape == meta["depths"].shape
    assert meta["tiles_per_gauss"].flatten().tolist() == counts
    assert meta["isect_ids"].dtype == torch.int64 and meta["isect_ids"].tolist() == ids
    assert meta["flatten_ids"].dtype == torch.int32 and meta["flatten_ids"].tolist() == rows
    offsets = meta["isect_offsets"]
    assert offsets.dtype == torch.int32 and offsets.shape == (*batch, cameras, tiles_y, tiles_x)
    expected, total = [], 0
    for image in range(n_images):
        for tile in range(tiles_x * tiles_y):
            expected.append(total)
            total += per_tile.get((image, tile), 0)
    assert offsets.flatten().tolist() == expected and total == len(ids) > 0


def test_keys_layout_and_laziness(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = tile_intersections
    monkeypatch.setattr(meta_module, "tile_intersections", lambda *a: made.append(1) or original(*a))
    scene = make_scene(n=30, cameras=2, dtype=torch.float32)
    scene.means[::5, 2] -= 20.0
    scene = scene.with_gradients()
    for packed in (True, False):
        _, _, meta = rasterization(**scene.arguments(), packed=packed, backend=backend)
        assert list(meta.keys()) == KEYS
        if packed:
            rows = (len(meta["gaussian_ids"]),)
            assert 0 < rows[0] < 60 and all(meta[k].dtype == torch.int64 for k in KEYS[:3])
            assert bool((meta["camera_ids"].diff() >= 0).all()) and bool((meta["radii"] > 0).all())
        else:
            rows = (2, 30)
            assert meta["batch_ids"] is meta["camera_ids"] is meta["gaussian_ids"] is None
        assert meta["radii"].shape == meta["means2d"].shape == (*rows, 2) and meta["radii"].dtype == torch.int32
        assert meta["depths"].shape == meta["opacities"].shape == rows and meta["conics"].shape == (*rows, 3)
        assert (meta["width"], meta["height"], meta["n_batches"], meta["n_cameras"]) == (45, 35, 1, 2)
        assert made == [], "the tile lists must not be made before they are read"
    assert meta["isect_offsets"].shape == (2, 3, 3) and made == [1]


@pytest.mark.parametrize("packed", [True, False])
def test_tile_lists_of_an_empty_view(packed: bool) -> None:
    scene = make_scene(n=5, dtype=torch.float32)
    hidden = Scene(**(scene.arguments() | {"means": scene.means - 50.0}))
    _, _, meta = rasterization(**hidden.arguments(), packed=packed, backend="reference")
    assert meta["isect_ids"].shape == meta["flatten_ids"].shape == (0,)
    assert meta["isect_offsets"].tolist() == [[[0] * 3] * 3]
    assert meta["tiles_per_gauss"].shape == ((0,) if packed else (1, 5))


def test_ids_that_do_not_fit_are_refused() -> None:
    empty = torch.zeros(0)
    with pytest.raises(ValueError, match="larger tile_size"):
        tile_intersections(empty.reshape(0, 2), empty.reshape(0, 2).int(), empty, empty.int(), 1000, 1, 3000, 2000)
