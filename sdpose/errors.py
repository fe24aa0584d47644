"""What the user is told when the input, not the code, is wrong.

Raise `UserError` for anything the user can fix (a key, a file, a flag); its text says what is
wrong, where, what is allowed and what to do. Every entry point (the command line, each pipeline
step) runs under `user_errors`, which prints that text without a traceback and exits with code 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType

from sdpose.credentials import clean_environment, has_credentials, without_secrets
from sdpose.log_setup import log_to_stderr
from sdpose.printable import printable

USER_ERROR_EXIT_CODE = 2

# What a process prints that ends only because of another one of its run. Whoever looks for the
# cause of a failure finds it in the output of another process then.
PEER_LOST = "another process of this run is gone"
# What the others end with when a process dies: 128 + SIGPIPE, the other end is gone. Not their
# fault, and to be tried again: PyTorchJob restarts 128 to 255.
PEER_LOST_EXIT_CODE = 128 + signal.SIGPIPE
PEER_ERROR = "process 0 has met an error"

# A step of a pipeline runs in a child process whose exit code the local pipeline runner does not
# hand on. Where this variable names a file, the message is left there too, for the parent to find.
FAILURE_FILE_VARIABLE = "SDPOSE_FAILURE_FILE"


class UserError(ValueError):
    """An error in the user's input; the message is complete and is shown as it is.

    It holds no secrets: it goes to terminals, logs, pages and records, not only to `user_errors`.
    """

    exit_code = USER_ERROR_EXIT_CODE

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(str(message)))


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns a `UserError` into a clean message on stderr and its exit code, 2 as a rule.

    Of several processes that torchrun started on a machine, the first one prints it. What entry
    points need beside it comes with it: a clean environment (`clean_environment`), the package's
    log on stderr, and tracebacks of bugs without secrets.
    """
    code = USER_ERROR_EXIT_CODE
    clean_environment()
    log_to_stderr()
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_traceback
    try:
        yield
        _flush_output()
    except UserError as error:
        message, code = str(error), error.exit_code
    except OSError as error:
        if not _is_of_output(error):
            raise
        message = f"standard output cannot be written: {error.strerror}"
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = (
            "this needs PyTorch, which the pipeline image leaves out: training, evaluation and "
            f"everything that runs a model use the trainer image (Python: {sys.executable})"
        )
    else:
        return
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {printable(message)}", file=sys.stderr, flush=True)
        failure_file = os.environ.get(FAILURE_FILE_VARIABLE)
        if failure_file:
            Path(failure_file).write_text(printable(message), encoding="utf-8")
    raise SystemExit(code)


def _flush_output() -> None:
    """Else Python finds out at its very end that the output is lost, and prints a traceback."""
    with contextlib.suppress(BrokenPipeError, ValueError):  # whoever read it has enough
        sys.stdout.flush()


def _is_of_output(error: OSError) -> bool:
    """Was it standard output that could not be written? Then it is closed, too: what waits to be
    written would fail again at the end."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return False
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # a test's, or none
        return False
    try:
        sys.stdout.flush()
        os.write(descriptor, b"\n")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        return True
    return False


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    lines = traceback.format_exception(kind, error, trace)
    print(without_secrets("".join(lines)), end="", file=sys.stderr, flush=True)


def refuse_credentials(address: str) -> str:
    """The address, if it holds no credentials.

    What names an address (an experiment, a manifest, a pipeline's parameters, a log) is kept and
    shown to others.

    >>> refuse_credentials("s3://bucket/key")
    's3://bucket/key'

    Raises:
        UserError: it holds some; the message does not.
    """
    if has_credentials(address):
        raise UserError(
            f"{address}: an address with credentials would be kept where others read it; leave "
            "them out and give them as environment variables (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, MLFLOW_TRACKING_USERNAME and _PASSWORD, "
            "KFP_TOKEN; on a cluster from a Secret, under `secrets:` in the cluster profile)"
        )
    return address


def how_to_install(extra: str) -> str:
    """The command that adds an extra of this project, which is on no package index."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        root = Path("PATH/OF/SDPOSE")
    return f"pip install --constraint {root}/requirements.lock --editable '{root}[{extra}]'"


def either(names: Iterable[str]) -> str:
    """
    >>> either(["a", "b", "c"])
    "'a', 'b' or 'c'"
    """
    *others, last = (f"'{name}'" for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def did_you_mean(word: str, allowed: Sequence[str]) -> str:
    """A hint for a mistyped word: the nearest allowed ones, else all of them.

    >>> did_you_mean("sample_per_gpu", ["samples_per_gpu", "workers_per_gpu", "train"])
    "did you mean 'samples_per_gpu' or 'workers_per_gpu'?"
    >>> did_you_mean("zzz", ["fail", "skip"])
    'allowed: fail, skip'
    >>> did_you_mean("SDPose-T", ["sdpose_t", "quickstart"])
    "did you mean 'sdpose_t'?"
    """
    spelled = {_plain(name): name for name in reversed(allowed)}
    near = [spelled[plain] for plain in get_close_matches(_plain(word), spelled, n=3, cutoff=0.6)]
    if near:
        return f"did you mean {either(near[:2])}?"
    return "allowed: " + ", ".join(sorted(allowed))


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")
