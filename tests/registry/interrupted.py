"""Stores that behave as real ones do at bad moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sdpose.storage import Store


class Interrupted:
    """A store that calls `between` before its n-th operation."""

    def __init__(self, store: Store, n: int, between: Callable[[], None]) -> None:
        self.store, self.left, self.between = store, n, between

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.between()
            return method(*arguments, **named)

        return call


class Hiding:
    """A store whose listings leave out keys, as a share does that cannot read a folder."""

    def __init__(self, store: Store, *hidden: str) -> None:
        self.store, self.hidden = store, hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def list(self, prefix: str) -> Iterator[str]:
        return (key for key in self.store.list(prefix) if not key.startswith(self.hidden))
