"""The log files of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpose import __version__
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.outputs.environment import environment
from sdpose.outputs.log_file import LogFile
from sdpose.outputs.sink import Sink, Status
from sdpose.training.events import EpochRecord, EvaluationRecord, TrainRecord
from sdpose.training.log_lines import epoch_line, evaluation_line, train_line


class TextSink(Sink):
    """`<timestamp>.log`, and `<timestamp>.log.json` with one JSON object a line, as mmcv's
    TextLoggerHook writes them."""

    def __init__(
        self,
        experiment: Experiment,
        work_dir: Path,
        timestamp: str,
        dataset_digest: str,
    ) -> None:
        self._log = LogFile(work_dir / f"{timestamp}.log")
        self._json = LogFile(work_dir / f"{timestamp}.log.json")
        self._write_json(
            {
                "exp_name": experiment.exp_name,
                "seed": experiment.seed,
                "experiment_digest": experiment_digest(experiment),
                "dataset_digest": dataset_digest,
                "sdpose_version": __version__,
                "environment": environment(),
            }
        )
        self._log.write(dump_experiment(experiment).encode())

    def say(self, text: str) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._log.write(f"{now} - sdpose - INFO - {text}\n".encode())

    def train(self, record: TrainRecord) -> None:
        self.say(train_line(record))
        self._write_json(
            {
                "mode": "train",
                "epoch": record.epoch,
                "iter": record.iteration_in_epoch,
                "lr": record.lr,
                "memory": record.memory,
                "data_time": round(record.data_time, 5),
                **record.values,
                "time": round(record.time, 5),
                "samples_per_second": round(record.samples_per_second, 1),
            }
        )

    def epoch(self, record: EpochRecord) -> None:
        self.say(epoch_line(record))

    def evaluation(self, record: EvaluationRecord) -> None:
        self.say(evaluation_line(record))
        self._write_json(
            {
                "mode": "val",
                "epoch": record.epoch,
                "iter": record.iteration,
                **record.metrics,
                "bbox_source": record.bbox_source,
            }
        )

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        self._log.close()
        self._json.close()

    def _write_json(self, values: Mapping[str, Any]) -> None:
        self._json.write(json.dumps(values).encode() + b"\n")
