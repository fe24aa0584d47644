"""A synthetic COCO keypoints dataset: rendered articulated figures on cluttered backgrounds.

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

from sdpose.cpus import cpu_count
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.tools.synthetic.annotations import annotate, crowd_index
from sdpose.tools.synthetic.scene import render_picture
from sdpose.tools.synthetic.subjects import SUBJECTS, Subject

Progress = Callable[[int, int], None]

SPLITS = ("train", "val")
FIRST_IMAGE_ID = {"train": 1, "val": 500_001}  # ids are unique over both, as in COCO
MAX_IMAGES = 500_000
MARKER = "synthetic.json"
FORMAT = 1  # raised when the same seed gives other pictures
JPEG_QUALITY = 90
PICTURES_WORTH_A_PROCESS = 250


def write_synthetic_coco(
    out: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    skeleton: str = "coco",
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `num_train` and `num_val` pictures with annotations to the folder `out`.

    A complete dataset of the same numbers, seed and skeleton is left as it is; another synthetic
    dataset is replaced. The layout is COCO's, whatever is drawn, so that an experiment differs in
    `skeleton` and `data_root` alone.

    Args:
        skeleton: a name in SUBJECTS.
        workers: number of processes (default: one per core; the files do not depend on it).
        progress: called as progress(done, total) after every picture.
    Raises:
        UserError: unknown skeleton, numbers out of range, or `out` holds anything that is not ours.
    """
    if skeleton not in SUBJECTS:
        raise UserError(f"--skeleton: '{skeleton}' cannot be drawn; allowed: {', '.join(SUBJECTS)}")
    subject = SUBJECTS[skeleton]
    for name, value, low, high in (
        ("number of training images", num_train, 1, MAX_IMAGES),
        ("number of validation images", num_val, 1, MAX_IMAGES),
        ("seed", seed, 0, 2**31 - 1),
    ):
        if not low <= value <= high:
            raise UserError(f"{name}: {value}; allowed: {low} to {high}")
    request: dict[str, Any] = {
        "format": FORMAT,
        "num_train": num_train,
        "num_val": num_val,
        "seed": seed,
    }
    if skeleton != "coco":  # a dataset of before there were others is still complete
        request["skeleton"] = skeleton
    if _is_complete(out, request):
        return
    _clear(out)

    marker = out / MARKER
    for folder in ("annotations", *(f"{split}2017" for split in SPLITS)):
        (out / folder).mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(request | {"complete": False}) + "\n", encoding="utf-8")
    numbers = {"train": num_train, "val": num_val}
    jobs = [
        (out, split, index, seed, skeleton) for split in SPLITS for index in range(numbers[split])
    ]
    documents = {split: _empty_document(seed, subject) for split in SPLITS}
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


def _write_picture(
    job: tuple[Path, str, int, int, str],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write one JPEG; return COCO's entry of the image and its annotations."""
    out, split, index, seed, skeleton = job
    subject = SUBJECTS[skeleton]
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    picture = render_picture(rng, subject.sample, subject.layout)
    annotations = annotate(picture, subject)
    image_id = FIRST_IMAGE_ID[split] + index
    file_name = f"{image_id:012d}.jpg"
    ok, jpeg = cv2.imencode(".jpg", picture.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    (out / f"{split}2017" / file_name).write_bytes(jpeg.tobytes())
    for number, annotation in enumerate(annotations):
        annotation |= {"image_id": image_id, "id": image_id * 100 + number}
    entry = _image_entry(image_id, file_name, picture.image)
    if subject.crowd_index:
        entry["crowdIndex"] = crowd_index(annotations)
    return entry, annotations


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


def _empty_document(seed: int, subject: Subject) -> dict[str, Any]:
    drawn = "people" if subject.category == "person" else f"{subject.category}s"
    return {
        "info": {
            "description": f"Synthetic {drawn} in COCO's layout (sdpose synth, seed {seed})",
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
                "supercategory": subject.supercategory,
                "id": 1,
                "name": subject.category,
                "keypoints": list(subject.skeleton.keypoints),
                "skeleton": [[a + 1, b + 1] for a, b in subject.skeleton.limb_indices],
            }
        ],
    }
