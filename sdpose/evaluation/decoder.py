"""Decode heatmaps to keypoints while the model computes the next batch.

N boxes, K joints, h x w heatmap pixels.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdpose.codec import decode
from sdpose.config.schema import TestCfg

Array = NDArray[np.float32]

# Batches that may wait for decoding; a batch of 32 boxes has 7 MB.
_AHEAD = 3


class Decoder:
    """Decode batches on a background thread, so that the main thread keeps the device busy.

    Decoding runs on the heatmaps' device. Leaving the context waits for all batches.

    Args:
        test_cfg: post_process and modulate_kernel, see `codec.decode`.
        keypoints_NK3: the output array, written in place.
        centers_N2, sizes_N2: the crop regions in image pixels.
    """

    def __init__(
        self, test_cfg: TestCfg, keypoints_NK3: Array, centers_N2: Array, sizes_N2: Array
    ) -> None:
        self._test_cfg = test_cfg
        self._keypoints_NK3 = keypoints_NK3
        self._centers_N2, self._sizes_N2 = centers_N2, sizes_N2
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._decoding: deque[Future[None]] = deque()
        self._stream: torch.cuda.Stream | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._thread.shutdown(cancel_futures=error is not None)
        if error is None:
            for decoded in self._decoding:
                decoded.result()

    def submit(self, heatmaps_NKhw: Tensor, rows: slice) -> None:
        """Queue the heatmaps of the boxes `rows` for decoding."""
        if len(self._decoding) == _AHEAD:
            self._decoding.popleft().result()
        stream: Any = contextlib.nullcontext()
        if heatmaps_NKhw.is_cuda:  # a separate stream, or it would queue behind the next batch
            self._stream = self._stream or torch.cuda.Stream(heatmaps_NKhw.device)
            self._stream.wait_stream(torch.cuda.current_stream(heatmaps_NKhw.device))
            heatmaps_NKhw.record_stream(self._stream)
            stream = torch.cuda.stream(self._stream)
        self._decoding.append(self._thread.submit(self._decode, heatmaps_NKhw, rows, stream))

    def _decode(
        self, heatmaps_NKhw: Tensor, rows: slice, stream: contextlib.AbstractContextManager
    ) -> None:
        with stream, torch.inference_mode():
            keypoints_NK3 = decode(
                heatmaps_NKhw,
                self._centers_N2[rows],
                self._sizes_N2[rows],
                post_process=self._test_cfg.post_process,
                kernel=self._test_cfg.modulate_kernel,
            )
            self._keypoints_NK3[rows] = keypoints_NK3.cpu().numpy()
