"""Which releases of Kubeflow Pipelines are tested, and what older ones leave out."""

from __future__ import annotations

import re

# Against their API declarations (tests/pipelines/test_submit_kfp.py), not against their servers.
TESTED = ("2.15.0", "2.16.1", "2.17.0")
# The driver of older ones drops what it does not know of a step's securityContext, without a word.
FIRST_WITH_SECURITY_CONTEXT = (2, 16)


def remarks(version: str) -> list[str]:
    """What a user of this release must know, a line each. version: "" if it is unknown."""
    if not version:
        return [
            "this Kubeflow Pipelines does not say which version it is; sdpose is tested against "
            f"the API of {', '.join(TESTED)}"
        ]
    lines = []
    if version not in TESTED:
        lines.append(
            f"Kubeflow Pipelines {version} is not tested: the versions whose API sdpose is tested "
            f"against are {', '.join(TESTED)}"
        )
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < FIRST_WITH_SECURITY_CONTEXT:
        lines.append(
            f"Kubeflow Pipelines {version} ignores `security` of the profile in the pipeline's "
            "steps (2.16 and newer apply it): they run as the user of their image, and a namespace "
            "with Pod Security `restricted` refuses their pods. Training pods are not affected"
        )
    return lines
