"""Commands that file permissions hold for, even when root runs the tests."""

from __future__ import annotations

import os


def unprivileged(*command: str) -> list[str]:
    if os.geteuid() != 0:
        return list(command)
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]
