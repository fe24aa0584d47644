"""A synthetic COCO keypoints dataset: rendered articulated people on cluttered backgrounds.

The folder has COCO's own layout, so that everything that reads COCO reads it. Each picture is a
function of (seed, split, index) alone; with the same library versions the files are the same byte
for byte. A joint that is annotated was painted, a joint that something covers has v = 1.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sdpose.config.schema import COCO
from sdpose.cpus import cpu_count
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.tools.synthetic.figure import NUM_PARTS, Array
from sdpose.tools.synthetic.painting import visibility
from sdpose.tools.synthetic.scene import Placed, render_picture

Progress = Callable[[int, int], None]

SPLITS = ("train", "val")
FIRST_IMAGE_ID = {"train": 1, "val": 500_001}  # ids are unique over both, as in COCO
MAX_IMAGES = 500_000
MARKER = "synthetic.json"
FORMAT = 1  # raised when the same seed gives other pictures
JPEG_QUALITY = 90
PICTURES_WORTH_A_PROCESS = 250


# ------------------------------------------------------------------------------------ annotations


def _annotations(people: list[Placed], owner: npt.NDArray[np.int16]) -> list[dict[str, Any]]:
    """COCO's annotations (without ids) of the people in a finished picture."""
    positive = np.maximum(owner, 0)
    seen = np.bincount(positive.ravel(), minlength=1 + NUM_PARTS * len(people)) > 0
    person_map = (positive + NUM_PARTS - 1) // NUM_PARTS  # 0: nobody
    annotations = []
    for index, person in enumerate(people):
        if person.kind == "crowd":
            continue
        mask = person_map == index + 1
        if mask.sum() < 12:  # covered by others
            continue
        keypoints = np.zeros((COCO.num_keypoints, 3))
        if person.kind == "person":
            v = visibility(person.figure, person.joints, owner, seen, person.first_owner)
            keypoints[:, :2] = np.round(person.joints, 2)
            keypoints[:, 2] = v
            keypoints[v == 0] = 0
        annotations.append(_annotation(mask, keypoints, _polygons(mask), iscrowd=0))
    crowd = [index + 1 for index, person in enumerate(people) if person.kind == "crowd"]
    mask = np.isin(person_map, crowd) if crowd else np.zeros_like(owner, dtype=bool)
    if mask.any():
        run_lengths = {"counts": _run_lengths(mask), "size": list(mask.shape)}
        annotations.append(
            _annotation(mask, np.zeros((COCO.num_keypoints, 3)), run_lengths, iscrowd=1)
        )
    return annotations


def _annotation(
    mask: npt.NDArray[np.bool_], keypoints_K3: Array, segmentation: Any, *, iscrowd: int
) -> dict[str, Any]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    numbers = [int(n) if n == int(n) else float(n) for n in keypoints_K3.ravel()]
    return {
        "segmentation": segmentation,
        "num_keypoints": int((keypoints_K3[:, 2] > 0).sum()),
        "area": int(mask.sum()),
        "iscrowd": iscrowd,
        "keypoints": numbers,
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
        "category_id": 1,
    }


def _polygons(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """The outline of every fragment, as x, y, x, y, ...; a pixel reaches from x to x + 1."""
    # Traced at twice the size, where a line of pixels has an inside; to half a pixel.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [cv2.approxPolyDP(contour, 1.0, True) for contour in contours]
    corners = [o if len(o) >= 3 else c for o, c in zip(outlines, contours, strict=True)]
    return [((polygon.ravel() + 0.5) / 2).tolist() for polygon in corners]


def _run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed RLE: lengths of 0s and 1s in turn, down the columns, 0s first.

    >>> _run_lengths(np.array([[0, 1], [1, 1]], dtype=bool))
    [1, 3]
    >>> _run_lengths(np.array([[1, 0], [1, 0]], dtype=bool))
    [0, 2, 2]
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[0], changes, [mask.size]])
    return [int(n) for n in np.diff(bounds)]


# ------------------------------------------------------------------------------------------ files


def write_synthetic_coco(
    out: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes `num_train` and `num_val` pictures with annotations to the folder `out`.

    A complete dataset of the same numbers and seed is left as it is; another synthetic dataset is
    replaced. `workers` is the number of processes (default: one per core; the files do not depend
    on it). `progress(done, total)` is called after every picture.

    Raises UserError for numbers out of range, and if `out` holds anything that is not ours.
    """
    for name, value, low, high in (
        ("number of training images", num_train, 1, MAX_IMAGES),
        ("number of validation images", num_val, 1, MAX_IMAGES),
        ("seed", seed, 0, 2**31 - 1),
    ):
        if not low <= value <= high:
            raise UserError(f"{name}: {value}; allowed: {low} to {high}")
    request = {"format": FORMAT, "num_train": num_train, "num_val": num_val, "seed": seed}
    if _is_complete(out, request):
        return
    _clear(out)

    marker = out / MARKER
    for folder in ("annotations", *(f"{split}2017" for split in SPLITS)):
        (out / folder).mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(request | {"complete": False}) + "\n", encoding="utf-8")
    numbers = {"train": num_train, "val": num_val}
    jobs = [(out, split, index, seed) for split in SPLITS for index in range(numbers[split])]
    documents = {split: _empty_document(seed) for split in SPLITS}
    with _processes(workers, len(jobs)) as run:
        for done, (job, (image, annotations)) in enumerate(
            zip(jobs, run(_write_picture, jobs), strict=True), start=1
        ):
            document = documents[job[1]]
            document["images"].append(image)
            document["annotations"].extend(annotations)
            if progress:
                progress(done, len(jobs))
    for split, document in documents.items():
        path = out / "annotations" / f"person_keypoints_{split}2017.json"
        path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    marker.write_text(json.dumps(request | {"complete": True}) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _processes(workers: int | None, num_jobs: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` over several processes, in order; in this one where starting them costs more."""
    if workers is None:
        workers = min(cpu_count(), num_jobs // PICTURES_WORTH_A_PROCESS)
    if workers < 2:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield partial(pool.map, chunksize=16)


def _write_picture(job: tuple[Path, str, int, int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes one JPEG; returns COCO's entry of the image and its annotations."""
    out, split, index, seed = job
    picture = render_picture(np.random.default_rng([seed, SPLITS.index(split), index]))
    annotations = _annotations(picture.people, picture.owner)
    image_id = FIRST_IMAGE_ID[split] + index
    file_name = f"{image_id:012d}.jpg"
    ok, jpeg = cv2.imencode(".jpg", picture.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    (out / f"{split}2017" / file_name).write_bytes(jpeg.tobytes())
    for number, annotation in enumerate(annotations):
        annotation |= {"image_id": image_id, "id": image_id * 100 + number}
    return _image_entry(image_id, file_name, picture.image), annotations


def _is_complete(out: Path, request: dict[str, Any]) -> bool:
    marker = out / MARKER
    if not marker.is_file() or marker.read_text("utf-8").strip() != json.dumps(
        request | {"complete": True}
    ):
        return False
    return all(
        (out / "annotations" / f"person_keypoints_{split}2017.json").is_file()
        and len(matching(out / f"{split}2017", "*.jpg")) == request[f"num_{split}"]
        for split in SPLITS
    )


def _clear(out: Path) -> None:
    """Removes the pictures and annotations of an earlier synthetic dataset, and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give a folder for the synthetic dataset")
    if not (out / MARKER).is_file():
        if matching(out, "*"):
            raise UserError(
                f"{out} is not empty and was not written by 'sdpose synth' (no {MARKER} in it); "
                "give a new or empty folder"
            )
        return
    for split in SPLITS:
        (out / "annotations" / f"person_keypoints_{split}2017.json").unlink(missing_ok=True)
        for path in matching(out / f"{split}2017", "*.jpg"):
            if re.fullmatch(r"\d{12}\.jpg", path.name):
                path.unlink()


def _image_entry(image_id: int, file_name: str, picture: npt.NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "license": 1,
        "file_name": file_name,
        "coco_url": "",
        "height": picture.shape[0],
        "width": picture.shape[1],
        "date_captured": "2024-01-01 00:00:00",
        "flickr_url": "",
        "id": image_id,
    }


def _empty_document(seed: int) -> dict[str, Any]:
    return {
        "info": {
            "description": f"Synthetic people in COCO's layout (sdpose synth, seed {seed})",
            "url": "",
            "version": f"{FORMAT}.0",
            "year": 2024,
            "contributor": "sdpose",
            "date_created": "2024/01/01",
        },
        "licenses": [{"id": 1, "name": "synthetic: free of rights", "url": ""}],
        "images": [],
        "annotations": [],
        "categories": [
            {
                "supercategory": "person",
                "id": 1,
                "name": "person",
                "keypoints": list(COCO.keypoints),
                "skeleton": [[a + 1, b + 1] for a, b in COCO.limb_indices],
            }
        ],
    }
