"""Renders the page: its sections, or the reason why one is missing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from sdpose.config import dump_experiment, experiment_digest
from sdpose.data.images import ImageError
from sdpose.errors import UserError
from sdpose.files import sha256_of_file
from sdpose.metric_names import SHOWN
from sdpose.report import pose_figures, training_figures
from sdpose.report.attention import Tokens, attention_panels, worst_middle_best
from sdpose.report.calibration import reliability
from sdpose.report.curves import MOST_JOINTS, precision_curves
from sdpose.report.example_poses import Person, people, ranked
from sdpose.report.history import History
from sdpose.report.keypoint_errors import (
    ERROR_KINDS,
    KINDS,
    NEAR,
    UNLABELLED,
    Matches,
    corrected_ap,
    match,
)
from sdpose.report.run_files import RunFiles
from sdpose.report.training_figures import Figure


@dataclass
class Evaluated:
    """All that follows from the results of an evaluation; empty, and `missing`, without."""

    missing: str = ""
    precision: list[Figure] = field(default_factory=list)
    errors: list[Figure] = field(default_factory=list)
    error_rows: list[dict[str, Any]] = field(default_factory=list)
    error_text: str = ""
    calibration: list[Figure] = field(default_factory=list)
    worst: list[Person] = field(default_factory=list)
    best: list[Person] = field(default_factory=list)
    people_missing: str = ""
    tokens: Tokens | None = None
    tokens_missing: str = ""


def render(files: RunFiles) -> str:
    """The whole HTML document."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sdpose.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = resources.files("sdpose.report").joinpath("style.css").read_text(encoding="utf-8")
    history = files.history
    return environment.get_template("page.html").render(
        style=style,
        name=files.experiment.exp_name,
        made=time.strftime("%Y-%m-%d %H:%M"),
        subtitle=_subtitle(files),
        tiles=_tiles(files),
        training=training_figures.training_figures(history),
        training_missing=files.missing.get("history", ""),
        starts=history.starts,
        speed=training_figures.speed_figures(history),
        evaluated=_evaluated(files),
        tables=_tables(files),
        experiment=dump_experiment(files.experiment),
    )


def _evaluated(files: RunFiles) -> Evaluated:
    annotations, results = files.annotations, files.results
    if annotations is None or "results" in files.missing:
        reasons = [files.missing[k] for k in ("results", "annotations") if k in files.missing]
        why = " ".join(reasons)
        return Evaluated(missing=why, people_missing=why, tokens_missing=why)
    if unknown := {row["image_id"] for row in results} - set(annotations.image_ids.tolist()):
        why = (
            f"The results are of other images than {annotations.path}: {len(unknown)} image ids "
            f"({min(unknown)}, ...) are not in it."
        )
        return Evaluated(missing=why, people_missing=why, tokens_missing=why)
    many = annotations.skeleton.num_keypoints > MOST_JOINTS
    curves, matches = precision_curves(annotations, results), match(annotations, results)
    worst, best, people_missing = people(files, matches)
    rows, text = _error_rows(files, matches)
    evaluated = Evaluated(
        precision=[
            pose_figures.precision_recall(curves),
            *([] if many else [pose_figures.by_joint(curves, annotations.skeleton)]),
            pose_figures.by_size(curves),
        ],
        errors=[
            pose_figures.errors_by_joint(matches, annotations.skeleton),
            pose_figures.oks_histogram(matches),
        ],
        error_rows=rows,
        error_text=text,
        calibration=_calibration(files, matches),
        worst=worst,
        best=best,
        people_missing=people_missing,
    )
    if files.checkpoint is None:
        evaluated.tokens_missing = files.missing["checkpoint"]
        return evaluated
    try:
        chosen = [
            (int(matches.persons[m]), title)
            for m, title in worst_middle_best(ranked(files, matches))
        ]
        if chosen:
            evaluated.tokens = attention_panels(files, chosen)
        else:
            evaluated.tokens_missing = "No person has enough annotated joints."
    except (UserError, ImageError) as error:
        evaluated.tokens_missing = str(error)
    return evaluated


def _error_rows(files: RunFiles, matches: Matches) -> tuple[list[dict[str, Any]], str]:
    assert files.annotations is not None
    total = int((matches.kinds != UNLABELLED).sum())
    ap = files.metrics.get("AP", float("nan"))
    rows = []
    for kind in (0, *ERROR_KINDS):
        count = matches.count(kind)
        gain = None
        if kind and count:
            gain = corrected_ap(files.annotations, files.results, matches, kind) - ap
        rows.append(
            {"kind": KINDS[kind], "count": count, "share": count / max(total, 1), "gain": gain}
        )
    lost = matches.num_persons - len(matches.rows)
    text = (
        f"{len(matches.rows)} of {matches.num_poses} poses are matched to a person (OKS 0.1 or "
        f"more), with {total} annotated joints. {matches.num_poses - len(matches.rows)} poses "
        f"belong to nobody; {lost} of {matches.num_persons} persons have no pose."
    )
    return rows, text


def _calibration(files: RunFiles, matches: Matches) -> list[Figure]:
    scores = np.array([row["score"] for row in files.results])
    oks = np.zeros(len(scores))
    oks[matches.rows] = matches.oks
    keypoints = np.array([row["keypoints"] for row in files.results]).reshape(len(scores), -1, 3)
    judged = matches.kinds != UNLABELLED
    joint_scores = keypoints[matches.rows, :, 2][judged]
    near = matches.similarity[judged] >= NEAR
    return [
        pose_figures.reliability_figure(
            reliability(scores, oks), "Scores of poses", "mean OKS (0 for a pose of nobody)"
        ),
        pose_figures.reliability_figure(
            reliability(joint_scores, near),
            "Scores of joints",
            "share with a similarity of 0.5 or more",
        ),
    ]


def _subtitle(files: RunFiles) -> str:
    experiment, history = files.experiment, files.history
    done = int(history.train[-1]["epoch"]) if history.train else 0
    epochs = f"{done} of {experiment.total_epochs} epochs"
    cycles = experiment.model.keypoint_head.tokenpose_cfg.cycle_num
    return f"{epochs} · {experiment.model.backbone.type}, {cycles} cycles · seed {experiment.seed}"


def _tiles(files: RunFiles) -> list[tuple[str, str, str]]:
    """Label, value and a note of what is most looked for."""
    metrics, note = files.metrics, "evaluation of the checkpoint"
    boxes = files.settings.get("bbox_source")
    if not metrics and files.history.evaluations:
        last = max(files.history.evaluations, key=lambda row: row["AP"])
        metrics, note = last, f"best in training, epoch {last['epoch']}"
        boxes = last.get("bbox_source")
    tiles = [
        (name, "–" if metrics[name] < 0 else f"{metrics[name]:.4f}", "")
        for name in SHOWN
        if name in metrics
    ]
    if tiles:
        tiles[0] = (*tiles[0][:2], f"{note}; {boxes} boxes")
    return tiles


def _tables(files: RunFiles) -> list[tuple[str, list[tuple[str, str]]]]:
    header, summary = files.history.header, files.summary
    environment = header.get("environment") or {}
    return [
        ("Training", _training_rows(files)),
        ("Environment of the training", [(str(k), str(v)) for k, v in environment.items()]),
        ("Evaluation", [(k.replace("_", " "), _plain(v)) for k, v in files.settings.items()]),
        (
            "Digests",
            [
                (name, str(value))
                for name, value in (
                    ("experiment", experiment_digest(files.experiment)),
                    ("dataset", summary.get("dataset_digest")),
                    ("checkpoint", files.checkpoint and sha256_of_file(files.checkpoint)),
                    ("code (git commit)", summary.get("git_commit")),
                    ("model version", summary.get("model_version")),
                    ("MLflow run", summary.get("mlflow_run_id")),
                )
                if value
            ],
        ),
    ]


def _training_rows(files: RunFiles) -> list[tuple[str, str]]:
    history = files.history
    rows = [("sdpose", str(history.header.get("sdpose_version", "")))]
    if history.train:
        rows.append(("steps an epoch", str(history.iterations_per_epoch)))
        seconds = _training_seconds(history)
        rows.append(("time in training steps", f"{seconds / 3600:.2f} h"))
    rows.append(("starts", str(history.starts)))
    if files.checkpoint:
        rows.append(("checkpoint", files.checkpoint.name))
    return [row for row in rows if row[1]]


def _training_seconds(history: History) -> float:
    """Every row is the mean of the steps since the one before."""
    total, epoch, before = 0.0, 0, 0
    for row in history.train:
        before = before if row["epoch"] == epoch else 0
        epoch = row["epoch"]
        total += row.get("time", 0.0) * (row["iter"] - before)
        before = row["iter"]
    return total


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
