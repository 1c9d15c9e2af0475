"""The private folder of this user, for locks and the status of runs.

It is below `$TMPDIR`, else `$XDG_RUNTIME_DIR`, else `/tmp`, so that the users of a machine neither exclude each other
nor write through links. In our image `$RUN_FOLDER` is the folder itself: a pod has one user.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from workload_generator.base.errors import UsageError


def private_folder() -> Path:
    """Its path; the folder need not exist."""
    if folder := os.environ.get("RUN_FOLDER"):
        return Path(folder)
    parent = os.environ.get("TMPDIR") or os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return Path(parent) / f"workload-generator-{os.getuid()}"


def make_private_folder() -> Path:
    """Create it if needed, for this user alone. Raises UsageError when it is a link or belongs to somebody else."""
    folder = private_folder()
    if "RUN_FOLDER" in os.environ:
        return folder
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{folder} is not a folder of this user; remove it, or set TMPDIR to another place")
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(f"cannot create the folder {folder}: {error.strerror}; set TMPDIR to another place") from None
    return folder


def open_private_file(name: str) -> int:
    """A descriptor of a file in it, created if needed, to read and write. Raises UsageError."""
    path = make_private_folder() / name
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}; remove it, or set TMPDIR to another place") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is not a file; remove it, or set TMPDIR to another place")
    return fd
