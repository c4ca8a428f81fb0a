"""Files are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .distributed import processes
from .errors import SaveError


@contextmanager
def atomic_path(path: str | os.PathLike, together: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; it replaces `path` when the block ends well and is removed when not.

    A reader therefore sees the old file or the new one, never a half-written one, even after a crash.

    Args:
        path: of the file; folders above it are made.
        together: several processes that train together all write this file at the same point: the main one's takes its
            place, and the others wait for it. False for a file that each process writes when it likes.

    Raises:
        SaveError: the system could not write (disk full, no permission, folder is a file, ...).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        # not by `tempfile`, whose files only their owner may read; the system takes off what the user's mask forbids
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = name
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if processes().main or not together:
            os.replace(temporary, path)
        if together:
            processes().wait()
    except OSError as error:
        raise SaveError(
            f"{path}: could not be written ({error.strerror or error}); expected a writable folder with free space. "
            "Nothing was changed: free some space or choose another folder, then try again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all. Raises SaveError as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
