"""`sdpose skeleton`: keypoints, and what follows from them, as YAML and as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from sdpose.cli.completion import complete_experiment
from sdpose.cli.text import echo
from sdpose.errors import UserError
from sdpose.files import write_atomically


@click.group()
def skeleton() -> None:
    """Look at the skeletons of presets, experiments and datasets."""


@skeleton.command("list")
def skeleton_list() -> None:
    """Print the names of the shipped skeletons."""
    from sdpose.cli.text import format_rows
    from sdpose.config.schema import PRESET_NAMES, preset

    rows = []
    for name in PRESET_NAMES:
        found = preset(name)
        names = ", ".join(found.keypoints[:4])
        rows.append([name, str(found.num_keypoints), str(len(found.flip_pairs)), f"{names}, ..."])
    echo(format_rows(["skeleton", "keypoints", "flip pairs", "names"], rows))


@skeleton.command("show")
@click.argument("source", metavar="FILE.json|EXP|PRESET", shell_complete=complete_experiment)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Draw it there.",
)
def skeleton_show(source: str, out: Path | None) -> None:
    """Print a skeleton as YAML for an experiment, with comments on where each part is from.

    FILE.json is a COCO keypoints file: its category is read, and what the names do not say is
    marked `# ?`. Of an EXP with `skeleton: auto` it is the training file. With --out it is drawn,
    from a file in the pose of its largest annotation with the most keypoints.
    """
    from sdpose.cli.skeleton_picture import skeleton_svg
    from sdpose.config import load_experiment
    from sdpose.config.schema import PRESET_NAMES, preset
    from sdpose.config.skeleton_yaml import skeleton_yaml
    from sdpose.data.auto_skeleton import read_draft

    if out is not None and out.suffix != ".svg":
        raise UserError(f"--out {out}: the picture is an SVG: give it a name that ends in .svg")
    file = Path(source) if source.endswith(".json") else None
    pose = None
    if file is None and source in PRESET_NAMES:
        shown = preset(source)
        text = skeleton_yaml(shown.model_dump(), {"": [f"the shipped skeleton {source}"]})
    elif file is None:
        experiment = load_experiment(source)
        if experiment.skeleton is None:
            file = Path(experiment.data_root) / experiment.data.train.ann_file
        else:
            shown = experiment.skeleton
            whose = f", the shipped skeleton {shown.preset}" if shown.preset else ""
            text = skeleton_yaml(shown.model_dump(), {"": [f"of {source}{whose}"]})
    if file is not None:
        draft = read_draft(file)
        shown, text = draft.skeleton(), draft.yaml()
        pose = draft.fullest_pose()
    if out is not None:
        try:
            write_atomically(out, skeleton_svg(shown, pose))
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    echo(text, nl=False)
    if out is not None:
        echo(f"drawn in {out}", err=True)
