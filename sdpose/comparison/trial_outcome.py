"""What came of one trial of a sweep, or of one run that is compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class TrialOutcome:
    name: str
    status: Literal["finished", "stopped", "failed"]  # stopped: early, by the sweep's own rule
    ap: float | None = None  # of the best epoch, 0..1
    epochs: int = 0
    checkpoint: str = ""  # of the best epoch
    mlflow_run_id: str = ""
    message: str = ""  # why it was stopped or has failed
    dataset_digest: str = ""  # of the data that it was trained on

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> TrialOutcome:
        return TrialOutcome(**json.loads(text))
