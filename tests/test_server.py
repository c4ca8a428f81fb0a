"""The local server: what it serves, how fast, and that each fault is what it says; seen by plain sockets."""

import http.client
import socket
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from pwl_lite.errors import StreamingError, UnknownNameError
from pwl_lite.server import FAULTS, Fault, ShardServer

CONTENT = bytes(range(256)) * 8


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "a.safetensors").write_bytes(CONTENT)
    (tmp_path / "secret.txt").write_text("outside")
    (tmp_path / "net" / "sub").mkdir()
    (tmp_path / "net" / "sub" / "b.safetensors").write_bytes(b"below")
    return tmp_path / "net"


@pytest.fixture
def server(folder):
    with ShardServer(folder) as server:
        yield server


def get(server: ShardServer, file: str = "a.safetensors", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    with urlopen(Request(f"{server.url}/{file}", headers=headers), timeout=5) as answer:
        return answer.status, answer.read(), dict(answer.headers)


def raw(server: ShardServer, text: str, seconds: float = 5) -> bytes:
    """All that comes back for these bytes until the connection ends."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(text.encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_file_and_parts_of_it(server):
    status, body, headers = get(server)
    assert (status, body, headers["Accept-Ranges"]) == (200, CONTENT, "bytes")
    status, body, headers = get(server, Range="bytes=100-")
    assert (status, body, headers["Content-Range"]) == (206, CONTENT[100:], "bytes 100-2047/2048")
    status, body, headers = get(server, Range="bytes=10-19")
    assert (status, body, headers["Content-Range"]) == (206, CONTENT[10:20], "bytes 10-19/2048")
    assert get(server, Range="bytes=2000-9999")[:2] == (206, CONTENT[2000:])
    assert server.requests == [("a.safetensors", first) for first in (0, 100, 10, 2000)]


def test_a_part_that_is_not_there(server):
    with pytest.raises(HTTPError, match="416"):
        get(server, Range="bytes=2048-")


def test_head_has_no_body(server):
    with urlopen(Request(f"{server.url}/a.safetensors", method="HEAD"), timeout=5) as answer:
        assert answer.read() == b"" and answer.headers["Content-Length"] == "2048"


@pytest.mark.parametrize(
    "file", ["b.safetensors", "", "..", "../secret.txt", "%2e%2e/secret.txt", "sub/b.safetensors", "sub", "/etc/passwd", "."]
)
def test_nothing_but_the_files_of_the_folder(server, file):
    answer = raw(server, f"GET /{file} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404") and b"outside" not in answer and b"below" not in answer


def test_connections_stay_open_and_answers_come_at_once(server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=5)
    connection.connect()
    local = connection.sock.getsockname()
    started = time.monotonic()
    for _ in range(20):
        connection.request("GET", "/a.safetensors")
        assert connection.getresponse().read() == CONTENT
    assert time.monotonic() - started < 0.5  # 40 ms each if header and body waited for each other
    assert connection.sock.getsockname() == local
    connection.close()


@pytest.mark.parametrize("clients", [1, 3])
def test_all_share_the_link(server, clients):
    server.bytes_per_second = 20_000
    threads = [threading.Thread(target=get, args=(server,)) for _ in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = clients * len(CONTENT) / 20_000
    assert seconds * 0.95 < time.monotonic() - started < seconds + 1
    server.bytes_per_second = None
    started = time.monotonic()
    get(server)
    assert time.monotonic() - started < 0.1 + seconds / 2


# ---- faults


def test_faults_have_names():
    with pytest.raises(UnknownNameError, match="fault 'fire': expected one of missing, error"):
        Fault("fire")


@pytest.mark.parametrize(("kind", "status"), [("missing", 404), ("error", 500)])
def test_faults_with_a_status(server, kind, status):
    server.faults["a.safetensors"] = Fault(kind)
    for _ in range(2):
        with pytest.raises(HTTPError) as error:
            get(server)
        assert error.value.code == status


def test_refused_is_no_answer(server):
    server.faults["a.safetensors"] = Fault("refused")
    assert raw(server, "GET /a.safetensors HTTP/1.1\r\nHost: x\r\n\r\n") == b""


def test_truncated_ends_at_the_half(server):
    server.faults["a.safetensors"] = Fault("truncated")
    with pytest.raises(http.client.IncompleteRead) as error:
        get(server)
    assert error.value.partial == CONTENT[:1024]
    with pytest.raises(http.client.IncompleteRead) as error:
        get(server, Range="bytes=1024-")
    assert error.value.partial == CONTENT[1024:1536]


def test_reset_is_a_reset(server):
    server.faults["a.safetensors"] = Fault("reset")
    with pytest.raises(ConnectionResetError):
        raw(server, "GET /a.safetensors HTTP/1.1\r\nHost: x\r\n\r\n")


def test_stall_is_silence_after_the_half(server):
    server.faults["a.safetensors"] = Fault("stall")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=0.2) as connection:
        connection.sendall(b"GET /a.safetensors HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with pytest.raises(TimeoutError):
            while True:
                chunk = connection.recv(65536)
                assert chunk
                answer += chunk
    assert answer.partition(b"\r\n\r\n")[2] == CONTENT[:1024]


def test_drip_is_slow(server):
    server.faults["a.safetensors"] = Fault("drip")
    started = time.monotonic()
    assert get(server, Range="bytes=0-499")[1] == CONTENT[:500]
    assert 0.45 < time.monotonic() - started < 2


def test_damaged_is_one_bit_and_longer_is_longer(server):
    server.faults["a.safetensors"] = Fault("damaged")
    body = get(server)[1]
    assert len(body) == len(CONTENT) and sum(a != b for a, b in zip(body, CONTENT)) == 1
    server.faults["a.safetensors"] = Fault("longer")
    body = get(server)[1]
    assert body.startswith(CONTENT) and len(body) > len(CONTENT)


def test_no_ranges_sends_all(server):
    server.faults["a.safetensors"] = Fault("no-ranges")
    assert get(server, Range="bytes=100-")[:2] == (200, CONTENT)


def test_endless_has_no_end(server):
    server.faults["a.safetensors"] = Fault("endless")
    with urlopen(f"{server.url}/a.safetensors", timeout=5) as answer:
        body = answer.read(200_000)
    assert body.startswith(CONTENT) and len(body) == 200_000


def test_a_fault_befalls_so_many_requests(server):
    server.faults["a.safetensors"] = Fault("error", times=2)
    for _ in range(2):
        with pytest.raises(HTTPError):
            get(server)
    assert get(server)[1] == CONTENT
    server.faults["b.safetensors"] = Fault("error")
    assert get(server)[1] == CONTENT


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_can_be_taken_away(server, kind):
    server.faults["a.safetensors"] = Fault(kind, times=0)
    assert get(server)[1] == CONTENT
    server.faults.clear()
    assert get(server)[1] == CONTENT


# ---- starting and stopping


def test_closing_ends_what_is_open(folder):
    server = ShardServer(folder)
    server.faults["a.safetensors"] = Fault("stall")
    problems = []

    def ask():
        try:
            get(server)
        except (OSError, http.client.HTTPException) as error:
            problems.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    end = time.monotonic() + 5
    while not server.requests and time.monotonic() < end:
        time.sleep(0.01)
    server.close()
    thread.join(5)
    assert problems and not thread.is_alive()
    with pytest.raises(OSError):
        get(server)
    server.close()


def test_the_same_port_again(folder):
    with ShardServer(folder) as server:
        get(server)
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(StreamingError, match=rf"port {port}: .*choose another, or 0"):
            ShardServer(folder, port=port)
    with ShardServer(folder, port=port) as again:
        assert again.url == server.url and get(again)[1] == CONTENT


def test_it_needs_a_folder(tmp_path):
    with pytest.raises(StreamingError, match="nowhere: no such folder; expected one made by save_blocks"):
        ShardServer(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StreamingError, match="no such folder"):
        ShardServer(Path(tmp_path / "file"))


@pytest.mark.parametrize("port", [70_000, -1])
def test_no_such_port(folder, port):
    with pytest.raises(StreamingError, match=f"port {port}"):
        ShardServer(folder, port=port)


def test_only_this_machine_can_reach_it(server):
    assert server.url.startswith("http://127.0.0.1:")
