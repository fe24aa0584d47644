"""`sdpose predict | export`: a model in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from sdpose.cli.text import answer, echo

# As those of `sdpose registry`; not imported from there, which would import the registry at once.
_public_key_option = click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help="Of a registry:// model: whoever has its private key must have signed version and pointer "
    "[default: $SDPOSE_PUBLIC_KEY]",
)
_allow_older_option = click.option(
    "--allow-older",
    is_flag=True,
    help="Take a signed pointer that is older than one that this machine has seen.",
)


@click.command()
@click.argument("model")
@click.argument("source", metavar="IMAGE|FOLDER|VIDEO", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="predictions", show_default=True)
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="COCO annotations or detections that say where persons are.",
)
@click.option(
    "--detector", type=click.Choice(["torchvision"]), help="Find persons by Faster R-CNN."
)
@click.option(
    "--detector-weights", type=click.Path(path_type=Path), metavar="FILE", help="Of the detector."
)
@click.option("--exp", help="The experiment, for weights that do not name theirs.")
@click.option("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one.")
@click.option(
    "--trust",
    is_flag=True,
    help="Open a .pt2 or .ts file. It is a program: it can run any code of whoever made it.",
)
@_public_key_option
@_allow_older_option
@click.option("--no-draw", is_flag=True, help="Write the results alone.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def predict(
    model: str,
    source: Path,
    out: Path,
    boxes: Path | None,
    detector: str | None,
    detector_weights: Path | None,
    exp: str | None,
    device: str | None,
    trust: bool,
    public_key: Path | None,
    allow_older: bool,
    no_draw: bool,
    as_json: bool,
) -> None:
    """Find the joints of the persons on pictures, draw them, and write COCO results.

    Exit code 2 if a picture cannot be read; the results of the others are written.

    \b
    MODEL is a checkpoint (.pth, .safetensors), an exported file (.onnx, .ts, .pt2) or
    registry://NAME/CHANNEL. .ts and .pt2 files are programs: they need --trust.
    Without --boxes or --detector the whole picture is taken for one person.
    """
    from sdpose.errors import UserError
    from sdpose.inference import load
    from sdpose.inference.box_file import BoxFile
    from sdpose.inference.boxes import Detector, TorchvisionDetector, whole_picture
    from sdpose.inference.pictures import Source
    from sdpose.inference.predict import predict as run
    from sdpose.progress_bar import ConsoleProgress

    if boxes and detector:
        raise UserError("--boxes and --detector say the same in two ways: leave one out")
    pictures = Source(source)
    estimator = load(
        model,
        exp=exp,
        device=device,
        trust=trust,
        public_key=public_key,
        allow_older=allow_older,
    )
    box_file = BoxFile(boxes, pictures, estimator.experiment.keypoints) if boxes else None
    find: Detector = box_file or whole_picture
    if detector:
        find = TorchvisionDetector(str(estimator.device), detector_weights)
    elif not boxes:
        echo("no boxes: each picture is taken for one person (--boxes, --detector)", err=True)
    with ConsoleProgress("predicting", "pictures") as progress:
        done = run(estimator, pictures, find, out, draw=not no_draw, progress=progress)
    ids = (box_file or pictures).ids
    notes = [*pictures.notes, *(box_file.notes() if box_file else [])]
    for note in notes:
        echo(f"warning: {note}", err=True)
    value: dict[str, Any] = {
        "out": str(done.out),
        "pictures": done.pictures,
        "persons": done.persons,
        "image_ids": ids,
        "drawn": [str(path) for path in done.drawn],
        "unreadable": pictures.unreadable,
        "warnings": notes,
    }
    text = f"{done.persons} persons on {done.pictures} pictures: {done.out} (image ids: {ids})"
    answer(text, value, as_json=as_json)
    if pictures.unreadable:
        raise UserError(
            f"{len(pictures.unreadable)} of {len(pictures.files)} pictures cannot be read and are "
            "not in the results:\n  " + "\n  ".join(pictures.unreadable)
        )


@click.command()
@click.argument("model")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "torchscript", "exported"]),
    default="onnx",
    show_default=True,
    help="onnx: data alone, for any runtime. torchscript (.ts) and exported (torch.export, .pt2): "
    "programs, which whoever opens them must trust.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--exp", help="The experiment, for weights that do not name theirs.")
@_public_key_option
@_allow_older_option
@click.option("--json", "as_json", is_flag=True)
def export(
    model: str,
    format_: Literal["onnx", "torchscript", "exported"],
    out: Path | None,
    exp: str | None,
    public_key: Path | None,
    allow_older: bool,
    as_json: bool,
) -> None:
    """Write MODEL for another runtime, checked against PyTorch, and print its latency.

    The file describes itself: preprocessing, decoding, joints. `sdpose predict FILE` runs it
    (.ts and .pt2 with --trust).
    """
    from sdpose.inference import load_network
    from sdpose.inference.exported import SUFFIXES
    from sdpose.inference.exported import export as write

    network, experiment = load_network(
        model,
        exp=exp,
        public_key=public_key,
        allow_older=allow_older,
    )
    path = out or Path(experiment.exp_name + SUFFIXES[format_])
    done = write(network, experiment, format_, path)
    if as_json:
        latency = {
            batch: {"pytorch_ms": ours, "exported_ms": theirs}
            for batch, (ours, theirs) in done.latency_ms.items()
        }
        value = {"path": str(done.path), "max_error": done.max_error, "latency": latency}
        echo(json.dumps(value | {"threads": done.threads}, indent=2))
        return
    echo(f"{done.path}: heatmaps within {done.max_error:.1e} of PyTorch's")
    echo(f"CPU, {done.threads} threads, milliseconds a batch (median of 5):")
    echo(f"{'batch':>6}  {'PyTorch':>9}  {format_:>11}")
    for batch, (ours, theirs) in done.latency_ms.items():
        echo(f"{batch:>6}  {ours:>9.1f}  {theirs:>11.1f}")
