"""Where shards come from: a folder, a web server, or anything else that fsspec knows; and how they arrive in spite of faults.

`Source` reads files from any place. `Fetcher` gets shards from a source: it goes on where a broken connection stopped, checks
length and SHA-256, keeps what has arrived in a cache on disk, and tries again with growing pauses.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event as Flag
from typing import Any

from torch import Tensor

from .errors import PWLError, SaveError, StoreError, StreamingError
from .files import atomic_path
from .manifest import MANIFEST, parse_manifest, read_manifest
from .shards import Buffer, map_file, own_pages, read_into_pages
from .store import check_shard, decode_shard, sha256_of

CHUNK = 1 << 18  # bytes that are read at once: small enough for a live progress bar and to be cancelled at once
LARGEST_MANIFEST = 1 << 22
LEFT_BEHIND = 3600.0  # seconds after which nobody writes to a file any more that is half written
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before the tries after the first; the last one repeats


class Source:
    """A place that holds a manifest and its shards.

    Args:
        address: a folder, or a URL of one: `https://...`, `s3://...`, `hf://...`, whatever fsspec has an implementation for.
        timeout: seconds without a byte after which a connection counts as broken (for web servers).
        options: for fsspec's file system of that kind, such as `anon=True` for S3.

    Raises:
        StreamingError: fsspec knows no such kind of address, or lacks a package for it.
    """

    def __init__(self, address: str | os.PathLike, timeout: float = 10.0, **options: Any):
        self.address = os.fspath(address).rstrip("/")
        kind, separator, rest = self.address.partition("://")
        self.folder = Path(self.address if not separator else rest) if kind == "file" or not separator else None
        self.web = kind in ("http", "https")
        self.timeout = timeout
        if self.folder is not None:
            return
        try:
            import fsspec

            if self.web:
                import aiohttp

                limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
                options["client_kwargs"] = {"timeout": limits, **options.get("client_kwargs", {})}
                options["skip_instance_cache"] = True  # connections that another model has left open may be dead
            self.files = fsspec.filesystem(kind, **options)
        except (ImportError, ValueError) as error:
            raise StreamingError(
                f"source {self.address!r}: {error}; expected a folder, or a URL for fsspec: pip install what it asks for"
            ) from error

    def chunks(self, file: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `start` on, as they arrive. Raises OSError (of many kinds) where they don't."""
        if self.folder is not None:
            with open(self.folder / file, "rb", buffering=0) as opened:
                opened.seek(start)
                yield from iter(lambda: opened.read(CHUNK), b"")
        elif self.web:
            yield from self._web_chunks(f"{self.address}/{file}", start)
        else:
            with self._errors_as_os_errors(), self.files.open(f"{self.address}/{file}", "rb") as opened:
                opened.seek(start)
                yield from iter(lambda: opened.read(CHUNK), b"")

    def _web_chunks(self, url: str, start: int) -> Iterator[bytes]:
        """One request for the rest of a file, answered as a stream; fsspec's own files ask anew for every few megabytes."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with (
            self._errors_as_os_errors(),
            self.files.open(url, "rb", block_size=0, size=1, headers=headers) as opened,  # with a size it asks for none
        ):
            status = opened.r.status
            if status not in (200, 206):
                raise OSError(f"the server answers with status {status}")
            skip = start if status == 200 else 0  # a server without ranges sends the file from its beginning
            for chunk in iter(lambda: opened.read(CHUNK), b""):
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                yield chunk[skip:]
                skip = 0

    @contextmanager
    def _errors_as_os_errors(self) -> Iterator[None]:
        """Each file system raises errors of its own kind; here they all mean that bytes did not come."""
        try:
            yield
        except OSError:
            raise
        except PWLError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise OSError(reason.splitlines()[0]) from error

    def manifest(self) -> dict:
        """The checked manifest.

        Raises:
            OSError: it cannot be read.
            StoreError: it is not like `save_blocks`'.
        """
        text = b""
        for chunk in self.chunks(MANIFEST):
            text += chunk
            if len(text) > LARGEST_MANIFEST:
                raise StoreError(f"{self.address}/{MANIFEST}: over {LARGEST_MANIFEST:,} bytes, expected a few thousand")
        return parse_manifest(text, f"{self.address}/{MANIFEST}")


class Fetcher:
    """Gets files of a source, trying until they are there and in order.

    Args:
        source: where they are.
        cache: folder of shards that have arrived before, by their SHA-256; None for no cache.
        verify: compare the SHA-256 of shards of a local folder too (those from elsewhere are always compared).
        on_bytes: called with the number of bytes that have just arrived.
        on_error: called with a failed try: what went wrong, and the seconds until the next try.
    """

    def __init__(
        self,
        source: Source,
        cache: Path | None,
        verify: bool = True,
        on_bytes: Callable[[int], None] = lambda n: None,
        on_error: Callable[[str, float], None] = lambda reason, pause: None,
    ):
        self.source, self.cache, self.verify = source, cache, verify
        self.on_bytes, self.on_error = on_bytes, on_error

    def manifest(self, stop: Flag, patience: float) -> dict:
        """The manifest.

        Raises:
            StoreError: a local folder has none, or another one than `save_blocks` writes: waiting would not help.
            StreamingError: from elsewhere, none has come after `patience` seconds.
        """
        if self.source.folder is not None:
            try:
                return self.source.manifest()
            except OSError:
                return read_manifest(self.source.folder)  # which says what is missing
        return self._until_done(self.source.manifest, stop, patience)

    def shard(self, entry: dict[str, Any], largest: int, stop: Flag, patience: float | None) -> dict[str, Tensor]:
        """The tensors of a shard.

        Args:
            entry: its entry in the manifest.
            largest: bytes that its network can need; more are refused before any is read.
            stop: set to give up at once.
            patience: seconds of failures in a row after which to give up; None to go on for ever.

        Raises:
            StreamingError: stopped, or out of patience; says what went wrong last.
        """
        name = f"{self.source.address}/{entry['file']}"
        if (declared := max(entry["bytes"], entry.get("inflated", 0))) > largest:
            raise StreamingError(f"{name}: {declared:,} bytes declared, its network needs {largest:,} at most; refused")
        if self.source.folder is not None and not self.verify:
            return self._until_done(lambda: self._mapped(entry, name), stop, patience)
        if (cached := self._cached(entry)) is not None:
            self.on_bytes(entry["bytes"])
            return decode_shard(cached, entry, name)
        arrival = _Arrival(entry["bytes"])  # what has come stays over failed tries: the next one asks for the rest
        return self._until_done(lambda: self._arrive(entry, name, arrival, stop), stop, patience, arrival)

    def _mapped(self, entry: dict[str, Any], name: str) -> dict[str, Tensor]:
        """Tensors that are pages of the file itself: nothing is copied, nor compared."""
        buffer, length = map_file(self.source.folder / entry["file"])
        if length != entry["bytes"]:
            raise StoreError(f"{name}: {length} bytes, expected {entry['bytes']}; copy it again")
        tensors = decode_shard(buffer, entry, name)
        self.on_bytes(length)
        return tensors

    def _arrive(self, entry: dict[str, Any], name: str, arrival: "_Arrival", stop: Flag) -> dict[str, Tensor]:
        """One try to get the rest of a shard."""
        for chunk in self.source.chunks(entry["file"], arrival.length):
            if stop.is_set():
                raise StreamingError(f"{name}: stopped")
            arrival.add(chunk)
            self.on_bytes(len(chunk))
            if arrival.length > entry["bytes"]:
                break  # it may have no end
        if arrival.length < entry["bytes"]:
            raise OSError(f"{name}: truncated: {arrival.length:,} of {entry['bytes']:,} bytes")
        length, sha256, buffer = arrival.take()
        try:
            check_shard(length, sha256, entry, name)
            tensors = decode_shard(buffer, entry, name)
        except StoreError:
            self.on_bytes(-length)  # nothing in it can be trusted: the next try begins anew
            raise
        if self.cache is not None:
            self._keep(entry, buffer)
        return tensors

    def _until_done(
        self, attempt: Callable[[], Any], stop: Flag, patience: float | None, arrival: "_Arrival | None" = None
    ) -> Any:
        started = failed = time.monotonic()
        tries = in_a_row = 0
        while True:
            try:
                return attempt()
            except StreamingError:
                raise
            except (OSError, StoreError) as error:
                if stop.is_set():
                    raise StreamingError(f"stopped while it failed: {error}") from error
                if arrival is not None and arrival.advanced > failed:
                    in_a_row = 0  # a link that breaks often but gets on is not one that is down
                failed, pause = time.monotonic(), PAUSES[min(in_a_row, len(PAUSES) - 1)]
                reason = str(error)
                if not isinstance(error, PWLError):  # what a file system says may name neither the kind of error nor the place
                    where = "" if self.source.address in reason else f"{self.source.address}: "
                    reason = f"{where}{type(error).__name__}: {reason}"
                failing_since = max(started, arrival.advanced) if arrival is not None else started
                if patience is not None and failed - failing_since + pause > patience:
                    raise StreamingError(f"gave up after {tries + 1} tries: {reason}") from error
                tries, in_a_row = tries + 1, in_a_row + 1
                self.on_error(reason, pause)
                if stop.wait(pause):
                    raise StreamingError(f"stopped while it failed: {reason}") from error

    def _cached(self, entry: dict[str, Any]) -> Buffer | None:
        """The shard if an earlier run has left it complete; a damaged copy is as good as none."""
        if self.cache is None:
            return None
        try:
            buffer, length = read_into_pages(self.cache / f"{entry['sha256']}.safetensors")
        except OSError:
            return None
        return buffer if length == entry["bytes"] and sha256_of(buffer, length) == entry["sha256"] else None

    def _keep(self, entry: dict[str, Any], buffer: Buffer) -> None:
        try:
            path = self.cache / f"{entry['sha256']}.safetensors"
            with atomic_path(path, together=False) as temporary, memoryview(buffer) as view:
                temporary.write_bytes(view[: entry["bytes"]])
        except SaveError as error:  # a full or read-only cache costs a download next time, nothing else
            self.on_error(f"not cached: {error}", 0.0)
        for left in self.cache.glob(".*.part"):  # by a process that was killed while it wrote
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                    left.unlink()


class _Arrival:
    """The bytes of a shard that have come so far, hashed as they come.

    Attributes:
        length: how many they are, those beyond what was declared included, which are not kept.
        advanced: when there were more of them than ever before. What comes again after damage, or is more than was declared, is
            no advance.
    """

    def __init__(self, declared: int) -> None:
        self.advanced, self._longest, self._declared = 0.0, 0, declared
        self._clear()

    def _clear(self) -> None:
        self.length, self._digest, self._buffer = 0, hashlib.sha256(), None

    def add(self, chunk: bytes) -> None:
        if self._buffer is None:
            self._buffer = own_pages(self._declared)
        kept = chunk[: max(0, self._declared - self.length)]
        self._buffer[self.length : self.length + len(kept)] = kept
        self._digest.update(chunk)
        self.length += len(chunk)
        if (useful := min(self.length, self._declared)) > self._longest:
            self.advanced, self._longest = time.monotonic(), useful

    def take(self) -> tuple[int, str, Buffer]:
        """Length, SHA-256 and the bytes; afterwards it is empty."""
        whole = self.length, self._digest.hexdigest(), self._buffer or own_pages(0)
        self._clear()
        return whole


def default_cache() -> Path:
    """Where shards from elsewhere are kept: `$PWL_CACHE_DIR`, by default a folder of the user's own cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PWL_CACHE_DIR") or base / "pwl_lite")
