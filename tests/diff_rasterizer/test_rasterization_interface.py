"""The signature is gsplat 1.5.3's, and wrong arguments get one clear error."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from rasterizer_scenes import make_scene

from diff_rasterizer import RollingShutterType, rasterization

REQUIRED = inspect.Parameter.empty
SIGNATURE = [
    ("means", REQUIRED),
    ("quats", REQUIRED),
    ("scales", REQUIRED),
    ("opacities", REQUIRED),
    ("colors", REQUIRED),
    ("viewmats", REQUIRED),
    ("Ks", REQUIRED),
    ("width", REQUIRED),
    ("height", REQUIRED),
    ("near_plane", 0.01),
    ("far_plane", 1e10),
    ("radius_clip", 0.0),
    ("eps2d", 0.3),
    ("sh_degree", None),
    ("packed", True),
    ("tile_size", 16),
    ("backgrounds", None),
    ("render_mode", "RGB"),
    ("sparse_grad", False),
    ("absgrad", False),
    ("rasterize_mode", "classic"),
    ("channel_chunk", 32),
    ("distributed", False),
    ("camera_model", "pinhole"),
    ("segmented", False),
    ("covars", None),
    ("with_ut", False),
    ("with_eval3d", False),
    ("radial_coeffs", None),
    ("tangential_coeffs", None),
    ("thin_prism_coeffs", None),
    ("ftheta_coeffs", None),
    ("rolling_shutter", RollingShutterType.GLOBAL),
    ("viewmats_rs", None),
]


def test_signature_is_gsplats_and_backend_is_keyword_only() -> None:
    parameters = list(inspect.signature(rasterization).parameters.values())
    assert [(p.name, p.default) for p in parameters[:-1]] == SIGNATURE
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters[:-1])
    last = parameters[-1]
    assert (last.name, last.default, last.kind) == ("backend", "auto", inspect.Parameter.KEYWORD_ONLY)


def arguments(**changes: Any) -> dict[str, Any]:
    return make_scene(n=5, cameras=2, dtype=torch.float32).arguments() | {"backend": "reference"} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"distributed": True},
        {"with_ut": True},
        {"with_eval3d": True},
        {"camera_model": "ftheta"},
        {"radial_coeffs": torch.zeros(2, 6)},
        {"tangential_coeffs": torch.zeros(2, 2)},
        {"thin_prism_coeffs": torch.zeros(2, 4)},
        {"ftheta_coeffs": object()},
        {"rolling_shutter": RollingShutterType.ROLLING_TOP_TO_BOTTOM},
        {"viewmats_rs": torch.eye(4).repeat(2, 1, 1)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_unsupported_arguments_are_named(changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with pytest.raises(ValueError, match=f"not supported: .*{name}"):
        rasterization(**arguments(**changes))


def test_all_unsupported_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="not supported: radial_coeffs, distributed=True, camera_model='ftheta'"):
        rasterization(**arguments(distributed=True, camera_model="ftheta", radial_coeffs=torch.zeros(2, 6)))


def test_gsplats_own_global_shutter_is_accepted() -> None:
    from enum import Enum

    class Theirs(Enum):
        GLOBAL = 4

    rasterization(**arguments(rolling_shutter=Theirs.GLOBAL))


t = torch.zeros

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"means": t(5, 4)}, r"means must have shape \(..., N, 3\), got \(5, 4\)"),
    ({"means": t(3)}, r"means must have shape \(..., N, 3\), got \(3,\)"),
    ({"quats": t(5, 3)}, r"quats must have shape \(N, 4\) = \(5, 4\), got \(5, 3\)"),
    ({"quats": None}, "quats must be a tensor, got None"),
    ({"scales": t(5)}, r"scales must have shape \(N, 3\) = \(5, 3\), got \(5,\)"),
    ({"scales": t(3, 5)}, r"scales .*got \(3, 5\); check the order"),
    ({"opacities": t(5, 1)}, r"opacities must have shape \(N,\) = \(5,\), got \(5, 1\); use opacities\[..., 0\]"),
    ({"opacities": t(6)}, r"opacities must have shape \(N,\) = \(5,\), got \(6,\)"),
    ({"viewmats": t(4, 4)}, r"viewmats must have shape \(..., C, 4, 4\), got \(4, 4\); use viewmats\[None\]"),
    ({"viewmats": t(2, 3, 4)}, r"viewmats must have shape \(C, 4, 4\) = \(2, 4, 4\), got \(2, 3, 4\)"),
    ({"viewmats": t(0, 4, 4)}, "viewmats must hold at least one camera"),
    ({"Ks": t(3, 3)}, r"Ks must have shape \(C, 3, 3\) = \(2, 3, 3\), got \(3, 3\)"),
    ({"Ks": t(1, 2, 3, 3)}, r"Ks .*; use Ks\[0\]"),
    ({"colors": t(4, 3)}, r"feature channels .* \(N, D\) or \(C, N, D\) with N=5, C=2, got \(4, 3\)"),
    ({"colors": t(5, 16, 3)}, "pass sh_degree for SH coefficients"),
    ({"colors": t(5, 0)}, "at least one channel"),
    ({"colors": None}, "colors must be a tensor, got None .*depth only"),
    ({"sh_degree": 1, "colors": t(5, 3)}, r"SH coefficients .*\(N, K, 3\).*use colors\[..., None, :\]"),
    ({"sh_degree": 2, "colors": t(5, 4, 3)}, "at least 9 SH coefficients for sh_degree=2, got 4"),
    ({"sh_degree": 5}, "sh_degree must be None or 0 to 4, got 5"),
    ({"sh_degree": 1.5}, "sh_degree must be None or 0 to 4, got 1.5"),
    ({"backgrounds": t(3)}, r"backgrounds must have shape \(C, D\) = \(2, 3\), got \(3,\)"),
    ({"backgrounds": t(2, 4)}, r"backgrounds must have shape \(C, D\) = \(2, 3\), got \(2, 4\)"),
    ({"covars": t(5, 6)}, r"covars must have shape \(N, 3, 3\) = \(5, 3, 3\), got \(5, 6\)"),
    ({"width": 0}, "width must be a whole number of at least 1, got 0"),
    ({"height": 10.5}, "height must be a whole number of at least 1, got 10.5"),
    ({"tile_size": -1}, "tile_size must be"),
    ({"channel_chunk": 0}, "channel_chunk must be"),
    ({"render_mode": "rgb"}, "render_mode must be one of RGB, D, ED, RGB.D, RGB.ED, got 'rgb'"),
    ({"rasterize_mode": "aa"}, "rasterize_mode must be one of classic, antialiased"),
    ({"camera_model": "lidar"}, "camera_model must be one of pinhole, ortho, fisheye"),
    ({"near_plane": 5.0, "far_plane": 1.0}, "near_plane must be less than far_plane"),
    ({"eps2d": -0.1}, "eps2d must be a finite number of at least 0, got"),
    ({"eps2d": float("nan")}, "eps2d must be a finite number of at least 0, got"),
    ({"sparse_grad": True, "packed": False}, "sparse_grad=True needs packed=True"),
    ({"means": [[0.0, 0.0, 1.0]]}, "means must be a torch.Tensor, got list; use torch.as_tensor"),
    ({"means": t(5, 3, dtype=torch.int64)}, "means must be float32 or float64, got int64"),
    ({"means": t(5, 3, dtype=torch.float16)}, "means must be float32 or float64, got float16"),
    ({"scales": t(5, 3, dtype=torch.float64)}, "scales must be float32 like means, got float64"),
    ({"scales": t(5, 3, device="meta")}, "scales must be on cpu like means, got meta"),
    ({"viewmats": torch.full((2, 4, 4), float("nan"))}, "viewmats must be finite"),
    ({"Ks": torch.full((2, 3, 3), float("inf"))}, "Ks must be finite"),
    ({"viewmats": t(2, 4, 4), "sh_degree": 0, "colors": t(5, 1, 3)}, "viewmats must be invertible"),
    ({"width": 2**31}, "width must be less than 2\\^31, got 2147483648"),
    ({"width": 2**20, "height": 2**12}, r"width \* height times the number of images must be less than 2\^31, got"),
    ({"width": 2**29 - 1, "height": 1, "colors": t(5, 3000)}, r"must fit into memory, got 536870911x1x2 with 3000"),
    ({"width": "9"}, "width must be a whole number of at least 1, got '9'"),
    ({"near_plane": "near"}, "near_plane must be a number, got 'near'"),
    ({"radius_clip": float("nan")}, "radius_clip must be a number, got nan"),
    ({"packed": "yes"}, "packed must be True or False, got 'yes'"),
    ({"absgrad": None}, "absgrad must be True or False, got None"),
    ({"render_mode": 3}, "render_mode must be one of .* got 3"),
    ({"backgrounds": torch.full((2, 3), float("nan"))}, "backgrounds must be finite"),
    ({"means": t(5, 3).to_sparse()}, "means must be a dense tensor, got layout torch.sparse_coo"),
    ({"opacities": t(5, dtype=torch.bfloat16)}, "opacities must be float32 or float64, got bfloat16; use opacities.to"),
    ({k: t(s, device="meta") for k, s in (("means", (5, 3)), ("quats", (5, 4)))}, "means must hold data"),
    ({"backend": 3}, "backend must be 'auto' or a name in"),
    ({"backend": "metal"}, "backend must be one of auto, cpu, cuda, gsplat, reference, got 'metal'"),
]


@pytest.mark.parametrize("changes,message", WRONG, ids=lambda x: "+".join(x) if isinstance(x, dict) else "")
def test_wrong_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterization(**arguments(**changes))


def test_sparse_gradients_refuse_a_batch() -> None:
    scene = make_scene(n=5, batch=(2,), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"sparse_grad=True needs means of shape \(N, 3\), got \(2, 5, 3\)"):
        rasterization(**scene.arguments(), sparse_grad=True, backend="reference")


def test_batch_dimensions_must_be_everywhere() -> None:
    scene = make_scene(n=5, batch=(2,), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"viewmats must have shape \(2, C, 4, 4\) = \(2, 1, 4, 4\), got \(1, 4, 4\)"):
        rasterization(**(scene.arguments() | {"viewmats": scene.viewmats[0]}), backend="reference")
