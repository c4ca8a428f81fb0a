"""Files are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .distributed import processes
from .errors import SaveError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; it replaces `path` when the block ends well and is removed when not.

    A reader therefore sees the old file or the new one, never a half-written one, even after a crash. Of several processes
    that write the same file, the main one's takes its place; afterwards all see it.

    Raises:
        SaveError: the system could not write (disk full, no permission, folder is a file, ...).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        if processes().main:
            os.replace(temporary, path)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
