"""Suites whose tests may take over a minute each, and the tests elsewhere that did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest

LIMIT_S = 60.0

# They start whole pipelines or trainings, or kill processes and servers over and over.
# CONTRIBUTING.md has what `make test` runs of each. The longest are first: whole files go to one
# process (--dist loadfile), and what takes minutes must not begin last.
LONG_SUITES = (
    "tests/training/test_chaos.py",
    "tests/pipelines/test_sweep.py",
    "tests/cluster/test_launcher_process.py",
    "tests/cluster/test_node_loss_training.py",
    "tests/registry/test_concurrency.py",
    "tests/runner/test_launch.py",
    "tests/pipelines/test_submit_local.py",
    "tests/pipelines/test_other_skeletons.py",
    "tests/outputs/test_mirror_s3.py",
    "tests/outputs/test_mlflow_sink.py",
    "tests/docs/test_commands.py",
    "tests/cluster/test_launcher_faults.py",
    "tests/registry/faults/test_kills.py",
    "tests/registry/faults/test_network_faults.py",
    "tests/registry/test_documents_fuzz.py",
)


def unnamed_long_tests(reports: Iterable[object]) -> list[tuple[float, str]]:
    """Finds the tests over LIMIT_S in no long suite, the longest first.

    Args:
        reports: of setups, calls and teardowns; a test is the sum of its own. Others are ignored.
    Returns:
        Seconds and the test's id.
    """
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid] += report.duration
    return sorted(
        (
            (taken, test)
            for test, taken in seconds.items()
            if taken > LIMIT_S and test.partition("::")[0] not in LONG_SUITES
        ),
        reverse=True,
    )
