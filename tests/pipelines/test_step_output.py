"""What a person sees of a step, and what is kept for the case that it fails."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipelines.local.step_output import StepOutput

KFP_BEFORE = (
    b"[KFP Executor 2026-11-22 18:08:01,168 INFO]: Looking for component `train` in x\n"
    b'[KFP Executor 2026-11-22 18:08:01,168 INFO]: Loading KFP component "train" from x\n'
    b"[KFP Executor 2026-11-22 18:08:01,169 INFO]: Got executor_input:\n"
    b'{\n    "inputs": {\n        "x": "}"\n    }\n}\n'
)
OWN = (
    b"Epoch [1]\n"
    b"[1/3]\r[2/3]\r[3/3]\r\n"
    b"[KFP Executor 2026-11-22 18:08:02,000 WARNING]: disk is slow\n"
    b"\x1b[31mred\x1b[0m end\n\x1b[2K"
)
KFP_AFTER = b"[KFP Executor 2026-11-22 18:08:03,000 INFO]: Wrote executor output file to y.\n"
SHOWN = OWN.replace(b"[KFP Executor 2026-11-22 18:08:02,000 WARNING]", b"WARNING")


@given(st.lists(st.integers(0, len(KFP_BEFORE + OWN + KFP_AFTER)), max_size=12))
def test_passes_on_all_but_kfps_lines_however_it_arrives(cuts: list[int]) -> None:
    data = KFP_BEFORE + OWN + KFP_AFTER
    written: list[bytes] = []
    output = StepOutput(written.append)
    ends = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(ends):
        output.feed(data[start:end])
    output.close()
    assert b"".join(written) == SHOWN
    assert output.tail == ["Epoch [1]", "[3/3]", "WARNING: disk is slow", "red end"]


def test_unfinished_progress_is_shown_at_once() -> None:
    written: list[bytes] = []
    StepOutput(written.append).feed(b"epoch 1: 10 %")
    assert b"".join(written) == b"epoch 1: 10 %"
