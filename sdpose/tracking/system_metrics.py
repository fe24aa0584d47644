"""System metrics from MLflow's own monitors; its UI shows `system/` on a page of its own."""

from __future__ import annotations

import contextlib
import logging
import threading

SAMPLE_SECONDS = 10.0


class SystemMonitor:
    """Samples processor, memory, disk, network and NVIDIA GPUs in a thread; `close` ends it."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics import (
            cpu_monitor,
            disk_monitor,
            gpu_monitor,
            network_monitor,
        )

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        self._monitors = [
            cpu_monitor.CPUMonitor(),
            disk_monitor.DiskMonitor(),
            network_monitor.NetworkMonitor(),
        ]
        with contextlib.suppress(RuntimeError):  # no GPU here
            self._monitors.append(gpu_monitor.GPUMonitor())
        self._lock, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._sample, name="system metrics", daemon=True).start()

    def take(self) -> dict[str, float]:
        """Means since the last call; units are in the names (`system/gpu_0_power_usage_watts`)."""
        found: dict[str, float] = {}
        with self._lock:
            for monitor in self._monitors:
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        return {f"system/{name}": value for name, value in found.items()}

    def close(self) -> None:
        self._ended.set()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with self._lock:
                for monitor in self._monitors:
                    monitor.collect_metrics()
