"""Makes the system calls of a Python process answer as odd file systems do; run by its
`sitecustomize`, so by every process below it, too.

$ODD_FILE_SYSTEM is a list of: no-locks (NFS without its lock service), no-folder-sync (SMB, FUSE),
no-chmod (SMB), no-links (object stores on FUSE), one-name (a file system whose files have one
name), io-error (a disk that fails to sync). Real file systems of these kinds need a mount and a
server; their answers are all that a program sees of them.
"""

import errno
import fcntl
import os
import stat

_ODD = os.environ.get("ODD_FILE_SYSTEM", "").split(",")


def _answer(code):
    raise OSError(code, os.strerror(code))


if "no-locks" in _ODD:
    fcntl.flock = lambda *_: _answer(errno.ENOLCK)
if "no-chmod" in _ODD:
    os.chmod = lambda *_, **__: _answer(errno.EPERM)
if "no-links" in _ODD:
    os.link = lambda *_, **__: _answer(errno.ENOSYS)
if "one-name" in _ODD:
    os.link = lambda *_, **__: _answer(errno.EMLINK)
if "no-folder-sync" in _ODD or "io-error" in _ODD:
    _fsync = os.fsync

    def _odd_fsync(file):
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            _answer(errno.EIO if "io-error" in _ODD else errno.EINVAL)
        return _fsync(file)

    os.fsync = _odd_fsync
