"""A small web server for a folder of shards: to try a model on this machine, over a slow link, and with faults.

    with ShardServer("weights/vgg", bytes_per_second=2e6) as server:
        model = ProgressiveModel.open(server.url)
        server.faults["teacher-2.safetensors"] = Fault("truncated", times=3)

Not for the open internet: any web server or bucket that answers range requests serves a folder of shards as well.
"""

import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

from .errors import StreamingError, UnknownNameError

FAULTS = {
    "missing": "status 404",
    "error": "status 500",
    "refused": "the connection is closed without an answer",
    "truncated": "the first half, then the connection is closed",
    "reset": "the first half, then the connection is reset",
    "stall": "the first half, then silence",
    "drip": "a hundred bytes every tenth of a second",
    "damaged": "one byte is wrong",
    "longer": "more bytes than the file has",
    "endless": "the file, and then zeros for ever",
    "no-ranges": "the whole file, whatever part was asked for",
}


@dataclass
class Fault:
    """What goes wrong with a file.

    Attributes:
        kind: one of `FAULTS`.
        times: requests that it befalls; None for all until it is taken away.

    Raises:
        UnknownNameError: no such kind.
    """

    kind: str
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise UnknownNameError("fault", self.kind, FAULTS)


class ShardServer:
    """Serves the files of a folder on this machine, in threads of its own; a context manager.

    Args:
        folder: what `save_blocks` wrote.
        bytes_per_second: of the link, which all requests share; None for no limit. May be changed at any time.
        port: by default a free one.
        host: by default only this machine can reach it.

    Attributes:
        url: the address for `ProgressiveModel.open`.
        faults: file name -> `Fault`; may be changed at any time.
        requests: (file, first byte) of each request so far.

    Raises:
        StreamingError: no such folder, or the port is taken.
    """

    def __init__(
        self, folder: str | os.PathLike, bytes_per_second: float | None = None, port: int = 0, host: str = "127.0.0.1"
    ):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise StreamingError(f"{folder}: no such folder; expected one made by save_blocks")
        self.bytes_per_second = bytes_per_second
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, int]] = []
        self._lock, self._free_at, self.closing = Lock(), 0.0, Event()
        server = self

        class Handler(_Handler):
            shards = server

        try:
            self._http = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StreamingError(f"port {port}: {reason}; choose another, or 0 for a free one") from error
        self._http.daemon_threads = True
        self.url = f"http://{host}:{self._http.server_port}"
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, name="pwl-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; connections that are open end."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> "ShardServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def fault_of(self, file: str) -> str | None:
        """The kind of fault that befalls the next request of a file."""
        with self._lock:
            fault = self.faults.get(file)
            if fault is None or fault.times == 0:
                return None
            if fault.times is not None:
                fault.times -= 1
            return fault.kind

    def wait_for_link(self, n: int) -> None:
        """Wait until the link has carried all bytes that were asked for before and these `n` more."""
        rate = self.bytes_per_second
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + n / rate
            pause = self._free_at - now
        self.closing.wait(pause)


class _Handler(BaseHTTPRequestHandler):
    shards: ShardServer
    protocol_version = "HTTP/1.1"  # connections stay open between requests
    timeout = 60
    disable_nagle_algorithm = True  # else a body waits up to 40 ms for the client's word that it has the header

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = self.path.lstrip("/")
        path = self.shards.folder / file
        first = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(first[1]) if first else 0
        self.shards.requests.append((file, start))
        fault = self.shards.fault_of(file)
        if fault == "refused" or self.shards.closing.is_set():
            self.close_connection = True
        elif fault == "error":
            self.send_error(500)
        elif fault == "missing" or not re.fullmatch(r"[\w.-]+", file) or not path.is_file():
            self.send_error(404)
        else:
            content = path.read_bytes()
            end = int(first[2]) + 1 if first and first[2] else len(content)
            if fault == "no-ranges":
                first, start, end = None, 0, len(content)
            if first and start >= len(content):
                self.send_error(416)
                return
            try:
                self._send(content, slice(start, end), bool(first), fault)
            except OSError:  # the client has gone
                self.close_connection = True

    def _send(self, content: bytes, part: slice, ranged: bool, fault: str | None) -> None:
        body = content[part]
        if fault == "damaged":
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        if fault == "longer":
            body += b"\0" * 10_000
        self.send_response(206 if ranged else 200)
        if fault == "endless":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if ranged:
            self.send_header("Content-Range", f"bytes {part.start}-{part.start + len(body) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        half = fault in ("truncated", "reset", "stall")
        for chunk in self._chunks(body[: len(body) // 2] if half else body, fault):
            self.wfile.write(chunk)
        while fault == "endless" and not self.shards.closing.is_set():
            self.wfile.write(bytes(1000))
        if half:
            self.wfile.flush()
            self.close_connection = True
            if fault == "stall":
                self.shards.closing.wait(60)
            elif fault == "reset":  # closing with this option set sends a reset instead of an end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _chunks(self, body: bytes, fault: str | None) -> Iterator[bytes]:
        rate = self.shards.bytes_per_second
        size = 100 if fault == "drip" else 1 << 18 if not rate else max(1000, min(1 << 16, int(rate / 100)))
        for start in range(0, len(body), size):
            if self.shards.closing.is_set():
                raise ConnectionError("closing")
            chunk = body[start : start + size]
            if fault == "drip":
                self.shards.closing.wait(0.1)
            self.shards.wait_for_link(len(chunk))
            yield chunk

    def log_message(self, format: str, *args: object) -> None:
        pass
