"""The retry policy: how often, how long, and when the count starts again."""

from __future__ import annotations

import time

import pytest

from sdpose.retry import TransientError, retrying


class _Flaky:
    """Fails, and gets on with its work at some of its calls."""

    def __init__(self, failures: int, progress_at: tuple[int, ...] = ()) -> None:
        self.failures, self.progress_at = failures, progress_at
        self.calls = self.position = 0

    def __call__(self, answer: str) -> str:
        self.calls += 1
        self.position += self.calls in self.progress_at
        if self.calls <= self.failures:
            raise TransientError(f"failure {self.calls}")
        return answer


def test_a_transient_error_is_retried_and_the_last_one_raised():
    assert retrying(TransientError, first_pause=0)(_Flaky(5), "done") == "done"
    endless = _Flaky(99)
    with pytest.raises(TransientError, match="failure 6"):
        retrying(TransientError, first_pause=0)(endless, "done")
    assert endless.calls == 6


def test_other_errors_are_raised_at_once():
    calls = []

    def broken() -> None:
        calls.append(1)
        raise ValueError("wrong for good")

    with pytest.raises(ValueError, match="for good"):
        retrying(TransientError, first_pause=0)(broken)
    with pytest.raises(ValueError, match="for good"):
        retrying(lambda error: "busy" in str(error), first_pause=0)(broken)
    assert len(calls) == 2


def test_only_failures_without_progress_count():
    slow = _Flaky(9, progress_at=(2, 4, 6, 8))
    policy = retrying(TransientError, attempts=3, first_pause=0, progress=lambda: slow.position)
    assert policy(slow, "done") == "done"
    stuck = _Flaky(9, progress_at=(2,))
    with pytest.raises(TransientError, match="failure 4"):
        retrying(TransientError, attempts=3, first_pause=0, progress=lambda: stuck.position)(
            stuck, ""
        )


def test_a_budget_of_time_ends_the_attempts():
    endless = _Flaky(10**9)
    started = time.monotonic()
    with pytest.raises(TransientError):
        retrying(TransientError, attempts=None, seconds=0.3, first_pause=0.01)(endless, "")
    assert endless.calls > 1
    assert time.monotonic() - started < 60


def test_pauses_double_up_to_a_limit_and_vary():
    pauses: list[float] = []
    policy = retrying(
        TransientError,
        first_pause=0.001,
        longest_pause=0.004,
        before_sleep=lambda state: pauses.append(state.upcoming_sleep),
    )
    with pytest.raises(TransientError):
        policy(_Flaky(99), "")
    for pause, middle in zip(pauses, (0.001, 0.002, 0.004, 0.004, 0.004), strict=True):
        assert 0.5 * middle <= pause <= 1.5 * middle
    assert len(set(pauses)) == len(pauses)
