"""Processes register and promote at once, with an MLflow server beside the registry.

Here a short form; `make registry-fight`: 16 processes, 64 checkpoints and 200 promotions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fight import CHANNEL, FULL, LIFE_SECONDS
from made import write_checkpoint
from mlflow import MlflowClient
from servers.mlflow import MlflowServer

from sdpose.config import Experiment
from sdpose.registry import summarize
from sdpose.registry.channels import current, history
from sdpose.registry.mlflow_mirror import reconcile
from sdpose.registry.verify import verify
from sdpose.storage import open_store

PROCESSES, CHECKPOINTS, PROMOTIONS = (16, 64, 200) if FULL else (6, 12, 24)


@pytest.mark.timeout(LIFE_SECONDS + 100)
def test_nothing_is_lost_doubled_or_out_of_order(
    root: str,
    experiment: Experiment,
    own_mlflow_server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = own_mlflow_server.start().uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for seed in range(CHECKPOINTS):
        write_checkpoint(checkpoints / f"{seed:02}.pth", experiment, seed)
    fight = Path(__file__).with_name("fight.py")
    done = subprocess.run(
        [sys.executable, fight, root, checkpoints, str(PROCESSES), str(PROMOTIONS)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIFE_SECONDS,
        check=True,
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    store = open_store(root)

    registered = [each for answer in answers for each in answer["registered"]]
    assert len(registered) == 2 * CHECKPOINTS
    numbers = list(range(1, CHECKPOINTS + 1))
    assert [summary["version"] for summary in summarize(store, "tiny")] == numbers
    assert len({(each["name"], each["version"]) for each in registered}) == CHECKPOINTS
    assert sorted(each["version"] for each in registered if each["created"]) == numbers

    records = history(store, "tiny", CHANNEL)
    assert [record["generation"] for record in records] == list(range(1, len(records) + 1))
    assert records[0]["previous_version"] is None
    assert all(b["previous_version"] == a["version"] != b["version"] for a, b in pairwise(records))
    assert current(store, "tiny", CHANNEL) == records[-1]
    promoted = [each for answer in answers for each in answer["promoted"]]
    assert sorted(each["turn"] for each in promoted) == list(range(PROMOTIONS))
    assert all(each["allowed"] and each["version"] == each["wanted"] for each in promoted)
    # Whoever was told of a move made it, or found the version where it wanted it.
    assert {each["id"] for each in promoted} == {record["id"] for record in records}
    assert verify(store) == []

    drift = reconcile(store, "tiny")
    unheard = sum(len(answer["warnings"]) for answer in answers)
    print(f"{len(records)} generations, {unheard} times MLflow did not hear, {drift} to repair")
    assert reconcile(store, "tiny") == []
    client = MlflowClient(uri, uri)
    shown = client.search_model_versions("name = 'tiny'")
    assert sorted(int(each.tags["sdpose.registry_version"]) for each in shown) == numbers
    (alias,) = client.get_registered_model("tiny").aliases.items()
    version = client.get_model_version("tiny", alias[1])
    assert alias[0] == CHANNEL
    assert version.tags["sdpose.registry_version"] == str(records[-1]["version"])
