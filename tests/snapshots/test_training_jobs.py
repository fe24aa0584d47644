"""The training job of three cluster profiles, as PyTorchJob and as TrainJob.

(k8s/pytorchjob.yaml is a fourth: tests/k8s/test_manifests.py.)
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from snapshots.snapshot import FOLDER, assert_unchanged

from components.launcher.__main__ import cli

PROFILES = {
    "volumes": FOLDER.parent / "pipelines" / "cluster.yaml",
    "s3": FOLDER / "profiles" / "s3.yaml",
    "cpu": FOLDER / "profiles" / "cpu.yaml",
}


@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
@pytest.mark.parametrize("profile", PROFILES)
def test_training_jobs(profile: str, train_api: str, tmp_path: Path) -> None:
    text = PROFILES[profile].read_text(encoding="utf-8")
    if train_api == "trainjob":  # cannot be elastic
        text = re.sub("^elastic: .*\n", "", text, flags=re.MULTILINE)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(text, encoding="utf-8")
    arguments = ["render", "--exp", "sdpose_t", "--cluster", str(cluster)]
    done = CliRunner().invoke(cli, [*arguments, "--train-api", train_api])
    assert done.exit_code == 0, done.output
    manifest = yaml.safe_load(done.stdout)
    experiments = without_experiments(manifest)
    assert experiments
    assert {yaml.safe_load(each)["exp_name"] for each in experiments} == {"sdpose_t"}
    assert_unchanged(
        f"training_jobs/{profile}_{train_api}.yaml",
        "".join(f"# {line}\n" for line in done.stderr.splitlines())
        + yaml.safe_dump(manifest, sort_keys=False, width=100),
    )


def without_experiments(value: object) -> list[str]:
    """Takes the resolved experiments out of the annotations: test_digests.py has these."""
    found = []
    for key, each in list(value.items() if isinstance(value, dict) else ()):
        if key == "sdpose/experiment" and "\n" in str(each):
            found.append(each)
            value[key] = "(the experiment)"
        found += without_experiments(each)
    for each in value if isinstance(value, list) else ():
        found += without_experiments(each)
    return found
