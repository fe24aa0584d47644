"""Which steps of a local run need not run again, and why the others do.

What KFP does on a cluster, with the same key: the step's parameters, which are digests of all that
its result depends on, and its code. (kfp.local has a cache of its own; it does not notice a changed
import or changed bytes.) The last result of a step is kept, and is read in full before it is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.changes import changes, shortened
from pipelines.local.kfp_private import read_command
from sdpose.documents import read_json
from sdpose.files import link_or_copy, sha256_of_file, walk, write_atomically

RECORD = "record.json"


@dataclass(frozen=True)
class StepCall:
    """A step as kfp.local starts it."""

    name: str
    key: dict[str, Any]
    outputs: dict[str, Path]  # of each artifact: where the step puts it
    output_file: Path  # where it says what it has put there

    @property
    def title(self) -> str:
        """For people: the step, or which of a loop's it is."""
        return str(self.key.get("name", self.name))

    @classmethod
    def of(cls, command: list[str]) -> StepCall:
        name, executor_input, code = read_command(command)
        inputs, outputs = executor_input.get("inputs", {}), executor_input["outputs"]
        return cls(
            name=name,
            key={
                **inputs.get("parameterValues", {}),
                "the step's own code": hashlib.sha256("\0".join(code).encode()).hexdigest(),
            },
            outputs={
                name: Path(value["artifacts"][0]["uri"])
                for name, value in outputs.get("artifacts", {}).items()
            },
            output_file=Path(outputs["outputFile"]),
        )


class StepCache:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reason_to_run(self, call: StepCall) -> str | None:
        """Why the step has to run; None: it need not, `restore` it. "": there is no earlier run."""
        folder = self._folder / call.name
        if not (folder / RECORD).is_file():
            return ""
        try:
            record = read_json(folder / RECORD)
            return self._reason(folder, record, call)
        except (ValueError, LookupError, TypeError, AttributeError):
            return "the record of its earlier run is damaged, or of another version"

    def _reason(self, folder: Path, record: dict[str, Any], call: StepCall) -> str | None:
        if different := changes(record["key"], call.key):
            return shortened(different)
        for name, digest in record["digests"].items():
            if _tree_digest(folder / name) != digest:
                return f"its earlier result '{name}' has been changed or removed"
        for artifact in _artifacts(record["output"]):
            # Where the training left the file, for people: register names it in the summary.
            metadata = artifact.get("metadata", {})
            if named := metadata.get("work_dir_path"):
                kept = folder / artifact["name"] / metadata["file"]
                if not Path(named).is_file() or sha256_of_file(Path(named)) != sha256_of_file(kept):
                    return f"{named} has been changed or removed"
        return None if record["at"] else ""

    def restore(self, call: StepCall) -> str:
        """Hands on what the step has left before; returns when that was."""
        folder = self._folder / call.name
        record = read_json(folder / RECORD)
        for name in record["digests"]:
            _link_tree(folder / name, call.outputs[name])
        for name, value in record["output"].get("artifacts", {}).items():
            value["artifacts"][0]["uri"] = str(call.outputs[name])
        call.output_file.parent.mkdir(parents=True, exist_ok=True)
        call.output_file.write_text(json.dumps(record["output"]), encoding="utf-8")
        return str(record["at"])

    def keep(self, call: StepCall) -> None:
        """Remembers what the step has left, instead of what was kept of it before."""
        folder = self._folder / call.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        written = {name: path for name, path in call.outputs.items() if path.exists()}
        for name, path in written.items():
            _link_tree(path, folder / name)
        record = {
            "at": datetime.now().isoformat(sep=" ", timespec="minutes"),
            "key": call.key,
            "digests": {name: _tree_digest(folder / name) for name in written},
            "output": json.loads(call.output_file.read_text(encoding="utf-8")),
        }
        write_atomically(folder / RECORD, json.dumps(record, indent=1))


def _artifacts(output: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, **value["artifacts"][0]}
        for name, value in output.get("artifacts", {}).items()
    ]


def _tree_digest(path: Path) -> str:
    """Of a file, or of all files below a folder; of nothing, if it is not there."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(filter(Path.is_file, map(Path, walk(path)))):
        digest.update(f"{file.relative_to(path)} {sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _link_tree(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)
    else:
        link_or_copy(source, target)
