"""The private folder: whose it is, and what stands in its place."""

import os
import stat
from pathlib import Path

import pytest

from workload_generator.base.errors import UsageError
from workload_generator.base.private_folder import make_private_folder, open_private_file, private_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return private_folder()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TMPDIR": "/a", "XDG_RUNTIME_DIR": "/b"}, "/a/workload-generator-UID"),
        ({"TMPDIR": "", "XDG_RUNTIME_DIR": "/b"}, "/b/workload-generator-UID"),
        ({"TMPDIR": "", "XDG_RUNTIME_DIR": ""}, "/tmp/workload-generator-UID"),
        ({"TMPDIR": "/a", "RUN_FOLDER": "/tmp"}, "/tmp"),
    ],
)
def test_where_it_is(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert str(private_folder()) == expected.replace("UID", str(os.getuid()))


@pytest.mark.parametrize("before", [None, 0o777])
def test_it_is_for_this_user_alone(folder: Path, before: int | None) -> None:
    if before is not None:
        folder.mkdir()
        folder.chmod(before)
    assert stat.S_IMODE(make_private_folder().stat().st_mode) == 0o700
    os.close(open_private_file("file"))
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o600


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the other way round: of this user, in place of another's."""
    folder.mkdir()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    folder.rename(folder.with_name(f"workload-generator-{other}"))
    with pytest.raises(UsageError, match="is not a folder of this user; remove it, or set TMPDIR"):
        make_private_folder()


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_is_no_folder_is_refused(folder: Path, tmp_path: Path, what: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere) if what == "link" else folder.write_text("")
    with pytest.raises(UsageError):
        make_private_folder()
    assert stat.S_IMODE(elsewhere.stat().st_mode) != 0o700, "links are not followed"


@pytest.mark.parametrize("what", ["link", "FIFO", "folder"])
def test_what_is_no_file_is_refused(folder: Path, tmp_path: Path, what: str) -> None:
    path = make_private_folder() / "file"
    if what == "link":
        path.symlink_to(tmp_path / "target")
    elif what == "FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UsageError, match="remove it, or set TMPDIR to another place"):
        open_private_file("file")
    assert not (tmp_path / "target").exists()
