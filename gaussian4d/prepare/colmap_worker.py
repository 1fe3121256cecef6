"""SIFT features, matches and structure from motion by pycolmap, in a process of its own.

pycolmap and Pillow bring libraries that do not always bear each other in one process, and a crash in C++ must not
take the preparation down. Run as `python -m gaussian4d.prepare.colmap_worker JOB.json`; the job names its task and its
files, results are written beside them.

Cameras stand still, so all pictures of a camera, taken at several instants, become one image of the model: its
keypoints are those of all instants, and a match joins keypoints of one instant. Poses are thereby shared over instants,
and what stands still outvotes what moves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(job_file: str) -> int:
    """Returns 0 after doing the job that the file describes."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8", errors="surrogateescape"))
    tasks = {"match": match, "map": map_cameras, "relative": relative}
    tasks[job["task"]](job)
    return 0


def match(job: dict[str, Any]) -> None:
    """Writes the keypoints of every picture and the matches of every pair to `job["out"]` (npz).

    The job gives `folder`, `names` (files in it), `pairs` ([name, name]), `max_features`, `max_size`, `max_ratio` (of
    the best descriptor distance to the second best), `seed`.
    """
    import pycolmap

    folder, out = Path(job["folder"]), Path(job["out"])
    pycolmap.set_random_seed(int(job["seed"]))
    database = out.with_suffix(".db")
    database.unlink(missing_ok=True)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.max_image_size = int(job["max_size"])
    extraction.num_threads = int(job["threads"])
    extraction.sift.max_num_features = int(job["max_features"])
    extraction.use_gpu = False
    pycolmap.extract_features(
        database, folder, image_names=list(job["names"]), camera_mode=pycolmap.CameraMode.PER_IMAGE,
        extraction_options=extraction, device=pycolmap.Device.cpu,
    )  # fmt: skip
    listed = out.with_suffix(".pairs.txt")
    listed.write_text("".join(f"{a} {b}\n" for a, b in job["pairs"]), encoding="utf-8", errors="surrogateescape")
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = int(job["threads"])
    matching.use_gpu = False
    matching.sift.max_ratio = float(job["max_ratio"])
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = str(listed)
    pycolmap.match_image_pairs(database, matching_options=matching, pairing_options=pairing, device=pycolmap.Device.cpu)
    arrays: dict[str, np.ndarray] = {}
    with pycolmap.Database.open(database) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name in job["names"]:
            keypoints = db.read_keypoints(ids[name]) if name in ids else np.zeros((0, 2), np.float32)
            arrays[f"keypoints/{name}"] = np.asarray(keypoints, dtype=np.float32)[:, :2]
        for a, b in job["pairs"]:
            if a in ids and b in ids and db.exists_matches(ids[a], ids[b]):
                arrays[f"matches/{a}/{b}"] = np.asarray(db.read_matches(ids[a], ids[b]), dtype=np.int32)
                geometry = db.read_two_view_geometry(ids[a], ids[b])
                arrays[f"inliers/{a}/{b}"] = np.asarray(geometry.inlier_matches, dtype=np.int32).reshape(-1, 2)
    np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]
    database.unlink(missing_ok=True)


def map_cameras(job: dict[str, Any]) -> None:
    """Writes the cameras that structure from motion finds to `job["out"]` (JSON).

    The job gives `cameras` (name, width, height, and `model`, `params` where the lens is known), `matches` (npz with
    keypoints/NAME and matches/A/B of the cameras), `seed`, `thorough` (lower thresholds) and `shared` (all pictures
    are of one camera). Written: the number of models, and of the largest one its cameras with viewmat, lens and
    reprojection error; with `shared` also its points (see `_points`).
    """
    import pycolmap

    out = Path(job["out"])
    seed = int(job["seed"])
    pycolmap.set_random_seed(seed)
    data = np.load(job["matches"])
    database = out.with_suffix(".db")
    database.unlink(missing_ok=True)
    ids: dict[str, int] = {}
    pairs = []
    known: set[int] = set()
    least = 10 if job["thorough"] else 15
    with pycolmap.Database.open(database) as db:
        shared: tuple[int, int] | None = None
        for camera in job["cameras"]:
            if shared is None or not job["shared"]:
                camera_id = db.write_camera(_lens(camera))
                rig = pycolmap.Rig()
                rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id))
                shared = camera_id, db.write_rig(rig)
                if camera.get("params"):
                    known.add(camera_id)
            camera_id, rig_id = shared
            image = pycolmap.Image(name=camera["name"], camera_id=camera_id)
            image_id = db.write_image(image)
            frame = pycolmap.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(pycolmap.data_t(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id), image_id))
            db.write_frame(frame)
            ids[camera["name"]] = image_id
            db.write_keypoints(image_id, data[f"keypoints/{camera['name']}"].astype(np.float32))
        for key in data.files:
            kind, *rest = key.split("/")
            if kind == "matches" and len(data[key]) >= least:
                a, b = rest
                db.write_matches(ids[a], ids[b], data[key].astype(np.uint32))
                pairs.append((a, b))
    listed = out.with_suffix(".pairs.txt")
    listed.write_text("".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8", errors="surrogateescape")
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pycolmap.verify_matches(database, listed, verification)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = seed
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    options.num_threads = int(job["threads"])
    options.min_model_size = 2
    options.extract_colors = False
    options.constant_cameras = known
    if job["thorough"]:
        options.min_num_matches = least
        options.mapper.init_min_num_inliers = 40
        options.mapper.init_min_tri_angle = 4.0
        options.mapper.abs_pose_min_num_inliers = 12
        options.mapper.abs_pose_min_inlier_ratio = 0.1
        options.multiple_models = False
    models_folder = out.with_suffix(".models")
    models_folder.mkdir(exist_ok=True)
    models = pycolmap.incremental_mapping(database, models_folder, models_folder, options)
    result: dict[str, Any] = {"models": sorted((len(m.reg_image_ids()) for m in models.values()), reverse=True)}
    if models:
        best = max(models.values(), key=lambda model: len(model.reg_image_ids()))
        result |= _described(best)
        if job["shared"]:
            result["points"] = _points(best)
    out.write_text(json.dumps(result), encoding="utf-8", errors="surrogateescape")


def relative(job: dict[str, Any]) -> None:
    """Writes the relative rotation of every pair, from its own matches alone, to `job["out"]` (JSON).

    The job gives `cameras` (name, width, height, `params` of a pinhole), `matches` and `seed` as for `map_cameras`.
    """
    import pycolmap

    data = np.load(job["matches"])
    cameras = {camera["name"]: _lens(camera | {"model": "PINHOLE"}) for camera in job["cameras"]}
    options = pycolmap.TwoViewGeometryOptions()
    options.compute_relative_pose = True
    # Enough for pairs of which a third of the matches are right; hopeless pairs would take most of the time.
    options.ransac.max_num_trials = 1500
    options.ransac.random_seed = int(job["seed"])
    found = []
    for key in data.files:
        kind, *rest = key.split("/")
        if kind != "matches":
            continue
        a, b = rest
        options.ransac.max_error = max(1.0, 0.003 * max(cameras[a].width, cameras[a].height))
        geometry = pycolmap.estimate_calibrated_two_view_geometry(
            cameras[a], data[f"keypoints/{a}"].astype(np.float64),
            cameras[b], data[f"keypoints/{b}"].astype(np.float64),
            data[key].astype(np.uint32), options,
        )  # fmt: skip
        if geometry.cam2_from_cam1 is not None:
            R = geometry.cam2_from_cam1.rotation.matrix().tolist()
            found.append({"a": a, "b": b, "R": R, "inliers": len(geometry.inlier_matches)})
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8", errors="surrogateescape")


def _lens(camera: dict[str, Any]) -> Any:
    """Returns a pycolmap camera: the lens that is known, or a guess for one that is not."""
    import pycolmap

    width, height = int(camera["width"]), int(camera["height"])
    known = camera.get("params")
    model = camera["model"] if known else "SIMPLE_RADIAL"
    params = known or [1.2 * max(width, height), width / 2, height / 2, 0.0]
    lens = pycolmap.Camera(model=model, width=width, height=height, params=params)
    lens.has_prior_focal_length = bool(known)
    return lens


def _described(model: Any) -> dict[str, Any]:
    """Returns the cameras of a pycolmap reconstruction as plain values."""
    cameras = {}
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        camera = model.cameras[image.camera_id]
        errors = []
        pose = image.cam_from_world()
        for point in image.points2D:
            if point.has_point3D():
                seen = camera.img_from_cam(pose * model.points3D[point.point3D_id].xyz)
                if seen is not None:
                    errors.append(float(np.sum((np.asarray(seen) - point.xy) ** 2)))
        viewmat = np.eye(4)
        viewmat[:3] = pose.matrix()
        cameras[image.name] = {
            "viewmat": viewmat.tolist(),
            "model": camera.model.name,
            "params": [float(value) for value in camera.params],
            "rms": float(np.sqrt(np.mean(errors))) if errors else None,
            "observations": len(errors),
        }
    return {"cameras": cameras}


def _points(model: Any) -> list[list[float]]:
    """Returns x, y, z, the number in the name of a picture that sees the point, and its pixel there."""
    found = []
    for point in model.points3D.values():
        if len(point.track.elements) < 3:
            continue
        seen = point.track.elements[0]
        image = model.images[seen.image_id]
        pixel = image.points2D[seen.point2D_idx].xy
        found.append([*map(float, point.xyz), float(image.name[1:]), float(pixel[0]), float(pixel[1])])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
