"""`sdpose`, and `python -m sdpose`."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from sdpose.cli import main as run  # takes a second on a busy machine
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
