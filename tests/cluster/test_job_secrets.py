"""A Secret's value reaches the training's process, and nothing else: no object, no log."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.conftest import IMAGE, Launch
from tests.cluster.kinds import EACH_KIND, JobFacts
from tests.cluster.kube import KubeCluster

pytestmark = EACH_KIND

CANARY = "canary-of-the-secret"
REFERENCE = "$(AWS_SECRET_ACCESS_KEY)"
PROGRAM = f"""#!/bin/sh
[ "$AWS_SECRET_ACCESS_KEY" = {CANARY} ] && echo "it has the key"
echo "the note is $NOTE"
"""


def test_only_the_process_has_the_secret(
    kube: KubeCluster, results: Path, launch: Launch, tmp_path: Path, job_kind: JobFacts
) -> None:
    kube.images[IMAGE] = {"python": PROGRAM.encode()}
    kube.secrets["s3-training"] = {"key": CANARY}
    secret = {"AWS_SECRET_ACCESS_KEY": {"name": "s3-training", "key": "key"}}
    # A value of the profile that names the variable stays what it is.
    said = "\n".join(launch(secrets=secret, env={"NOTE": f"{REFERENCE} $$HOME"}))
    log = (tmp_path / "log.txt").read_text()
    for shown in (said, log):
        assert f"[{job_kind.replicas[0]}] it has the key" in shown
        assert f"the note is {REFERENCE} $$HOME" in shown
    plurals = ("pods", "events", "jobs", "jobsets")
    objects = [item for plural in plurals for _, item in kube.store.list("", plural)]
    for text in (said, log, json.dumps([*job_kind.jobs(kube), *objects])):
        assert CANARY not in text
