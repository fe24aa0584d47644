"""The output of a step, as it comes: kfp's own lines left out, its end kept."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from pipelines.local.kfp_private import EXECUTOR, EXECUTOR_CHATTER, EXECUTOR_INPUT, EXECUTOR_PREFIX

TAIL_LINES = 30  # a killed training's loader processes may say 20 of them

_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_LEADING_ANSI = re.compile(rb"(?:\x1b\[[0-9;?]*[A-Za-z])*")
_CUT_ANSI = re.compile(rb"\x1b(?:\[[0-9;?]*)?")


class StepOutput:
    """Hands a step's output on as it comes, without kfp's own lines, and keeps its end.

    Bytes pass through unchanged, carriage returns and colours too, so that progress bars survive.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._line = b""
        self._overwritten = b""  # what stood in this line before the last carriage return
        self._held = b""
        self._inside_executor_input = False
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        for piece in re.split(rb"(?<=[\n\r])", self._held + data):
            self._held = b""
            if piece.endswith((b"\n", b"\r")) or not self._may_be_kfps(piece):
                self._pass_on(piece)
            else:
                self._held = piece

    def close(self) -> None:
        self._pass_on(self._held)
        self._held = b""
        if not self._at_line_start():
            self._tail.append(self._line)
            self._write(b"\n")

    @property
    def tail(self) -> list[str]:
        """The last lines, as a person saw them."""
        lines = (_ANSI.sub(b"", line).decode(errors="replace").rstrip() for line in self._tail)
        return [line for line in lines if line]

    def _may_be_kfps(self, piece: bytes) -> bool:
        if self._inside_executor_input:
            return True
        text = _LEADING_ANSI.sub(b"", piece, count=1)
        undecided = EXECUTOR.startswith(text) or _CUT_ANSI.fullmatch(text)
        return self._at_line_start() and bool(undecided or text.startswith(EXECUTOR))

    def _at_line_start(self) -> bool:
        return not _ANSI.sub(b"", self._line)

    def _pass_on(self, piece: bytes) -> None:
        if self._inside_executor_input:
            self._inside_executor_input = piece.rstrip() != b"}"
            return
        if self._at_line_start():
            escapes = _LEADING_ANSI.match(piece)
            assert escapes is not None  # it matches nothing, too
            text = piece[escapes.end() :]
            if chatter := EXECUTOR_CHATTER.match(text):
                self._inside_executor_input = chatter[1] == EXECUTOR_INPUT
                text = b""
            piece = escapes[0] + EXECUTOR_PREFIX.sub(rb"\1: ", text, count=1)
        self._write(piece)
        self._line += piece
        if piece.endswith(b"\r"):
            self._overwritten, self._line = self._line, b""
        elif piece.endswith(b"\n"):
            self._tail.append(self._line if self._line.strip() else self._overwritten)
            self._overwritten, self._line = b"", b""
