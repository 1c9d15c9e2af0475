"""A folder for files that no other user of this machine may read or replace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from workload_generator.base.errors import UsageError


def private_folder() -> Path:
    """Below $TMPDIR if it is set, else $XDG_RUNTIME_DIR, else /tmp; made if need be. Raises UsageError.

    A folder that another user could have made or can write to is refused, and a link is not followed.
    """
    around = os.environ.get("TMPDIR") or os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    folder = Path(around) / f"workload-generator-{os.getuid()}"
    try:
        folder.mkdir(0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror or error}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(f"{folder} is not a folder that is only yours (mode 0700): remove it")
    return folder
