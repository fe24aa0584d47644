"""What operators and the kubelet have in common: they look at all objects whenever one changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

PERIOD_S = 0.1  # deadlines and TTLs pass without an event


class Controller(threading.Thread):
    """Holds no state of its own that the objects do not show. Starts at once."""

    def __init__(self, cluster: KubeCluster) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self._cluster, self._store = cluster, cluster.store
        self.stopped = threading.Event()
        self.rounds = 0  # how often it has looked at everything
        self.start()

    def reconcile(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        version = 0
        try:
            while not self.stopped.is_set() and not self._cluster.closed:
                with self._store.changed:
                    if self._store.version == version:
                        self._store.changed.wait(PERIOD_S)
                    version = self._store.version
                self.reconcile()
                self.rounds += 1
        except BaseException as error:
            # Nothing would ever happen again: whoever waits for it is told.
            self._cluster.close(f"the test's {self.name} has failed: {error!r}")
            raise
