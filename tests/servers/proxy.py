"""An HTTP proxy between a client and a server that fails as networks and servers do.

    with FaultProxy.to(server_url) as proxy:
        proxy.fault_at(3, Cut("after"))     # the third request from now on
        ...                                 # the client talks to proxy.url
        proxy.requests                      # what it saw: number, method, path

`proxy.plan` may be any function of a request. Bodies are held in memory, whole.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Cut:
    """Closes the connection: before the server hears of the request, when half of its body is
    sent, after the server has done it (the answer is lost), or within the answer's body."""

    when: Literal["before", "upload", "after", "answer"]


@dataclass(frozen=True)
class Answer:
    """Answers in place of the server, which hears nothing."""

    status: int
    code: str = "InternalError"


@dataclass(frozen=True)
class Delay:
    """Waits before the server hears of the request."""

    seconds: float


@dataclass(frozen=True)
class Truncate:
    """Leaves half of a body out, with a Content-Length that fits."""

    what: Literal["upload", "answer"]


@dataclass(frozen=True)
class FlipBit:
    """Changes one bit in the middle of a body."""

    what: Literal["upload", "answer"]


@dataclass(frozen=True)
class Ignore:
    """Leaves a header out of the request."""

    header: str


@dataclass(frozen=True)
class Call:
    """Calls something before the server hears of the request, or after it has done it; the client
    gets no answer."""

    action: Callable[[], object]
    when: Literal["before", "after"]


@dataclass
class Message:
    """A request or an answer."""

    start_line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def to_bytes(self) -> bytes:
        lines = [self.start_line, *(f"{key}: {value}" for key, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body

    def with_body(self, body: bytes) -> Message:
        """The same with another body; its length is said."""
        kept = [
            (key, value)
            for key, value in self.headers
            if key.lower() not in ("content-length", "transfer-encoding")
        ]
        return Message(self.start_line, [*kept, ("Content-Length", str(len(body)))], body)

    def without(self, *names: str) -> Message:
        """The same without these headers (lower case)."""
        kept = [(key, value) for key, value in self.headers if key.lower() not in names]
        return Message(self.start_line, kept, self.body)


@dataclass(frozen=True)
class Reply:
    """Answers in place of the server, which hears nothing, with any answer."""

    answer: Message


def _unchanged(message: Message) -> Message:
    return message


@dataclass(frozen=True)
class Edit:
    """Changes the request before the server hears of it, and the server's answer."""

    request: Callable[[Message], Message] = _unchanged
    answer: Callable[[Message], Message] = _unchanged


Fault = Cut | Answer | Delay | Truncate | FlipBit | Ignore | Call | Reply | Edit
SLOW_DOWN = Answer(503, "SlowDown")


@dataclass(frozen=True)
class Request:
    number: int  # counts from 1 since the last reset
    method: str
    path: str  # with the query
    size: int  # of the body, bytes
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)  # names in lower case


@dataclass
class FaultProxy:
    host: str
    port: int
    plan: Callable[[Request], Fault | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    down: bool = False  # connections are closed as soon as they are made
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextlib.contextmanager
    def to(cls, server_url: str) -> Iterator[FaultProxy]:
        """A running proxy to `http://host:port`."""
        parts = urlsplit(server_url)
        proxy = cls(parts.hostname or "", parts.port or 80)

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self):
                with contextlib.suppress(OSError, EOFError):
                    while not proxy.down and proxy.serve_one(self.rfile, self.connection):
                        pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False  # clients keep their connections
            request_queue_size = 128

        with Server(("127.0.0.1", 0), Handler) as server:
            proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield proxy
            finally:
                proxy.down = True
                server.shutdown()
                thread.join()

    def reset(self) -> None:
        """No more faults; requests are counted from 1 again."""
        with self._lock:
            self.plan = lambda request: None
            self.requests = []

    def fault_at(self, number: int, fault: Fault) -> None:
        """Only the n-th request from now on fails."""
        self.reset()
        self.plan = lambda request: fault if request.number == number else None

    def serve_one(self, reader: BinaryIO, client: socket.socket) -> bool:
        """One request and its answer; False if the connection ends here."""
        message = _read_head(reader)
        if message is None:
            return False
        method, path, _ = message.start_line.split(" ", 2)
        size = int(message.header("content-length") or 0)
        with self._lock:
            headers = {key.lower(): value for key, value in message.headers}
            request = Request(len(self.requests) + 1, method, path, size, headers)
            self.requests.append(request)
            plan = self.plan
        fault = plan(request)
        if fault == Cut("before"):
            return False
        if message.header("expect").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        message.headers = [
            h for h in message.headers if h[0].lower() not in ("expect", "connection")
        ]
        message.body = _read_body(reader, message)
        if isinstance(fault, Answer):
            client.sendall(_error_answer(fault, method).to_bytes())
            return True
        if isinstance(fault, Reply):
            client.sendall(_for_method(fault.answer, method).to_bytes())
            return True
        if isinstance(fault, Call) and fault.when == "before":
            fault.action()
            return False
        if isinstance(fault, Ignore):
            message.headers = [h for h in message.headers if h[0].lower() != fault.header.lower()]
        if isinstance(fault, Delay):
            time.sleep(fault.seconds)
        if fault == Cut("upload"):
            with self._connected() as server:
                server.sendall(message.to_bytes()[: -(size // 2) or -1])
            return False
        if fault == Truncate("upload") and message.body:
            message = message.with_body(message.body[: size // 2])
        if fault == FlipBit("upload"):
            message.body = _flipped(message.body)
        if isinstance(fault, Edit):
            message = fault.request(message)
        answer = self._ask(method, message)
        if isinstance(fault, Edit):
            answer = fault.answer(answer)
        if isinstance(fault, Call):
            fault.action()
        if fault == Cut("after") or isinstance(fault, Call):
            return False
        if fault == Cut("answer"):
            client.sendall(answer.to_bytes()[: -(len(answer.body) // 2) or -1])
            return False
        if fault == Truncate("answer") and answer.body:
            answer = answer.with_body(answer.body[: len(answer.body) // 2])
        if fault == FlipBit("answer"):
            answer.body = _flipped(answer.body)
        client.sendall(answer.to_bytes())
        return True

    def _connected(self) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout=120)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _ask(self, method: str, message: Message) -> Message:
        once = Message(
            message.start_line, [*message.headers, ("Connection", "close")], message.body
        )
        with self._connected() as server:
            server.sendall(once.to_bytes())
            with server.makefile("rb") as reader:
                answer = _read_head(reader)
                while answer is not None and answer.start_line.split(" ")[1] == "100":
                    answer = _read_head(reader)
                if answer is None:
                    raise EOFError
                answer.headers = [h for h in answer.headers if h[0].lower() != "connection"]
                status = answer.start_line.split(" ")[1]
                if method == "HEAD" or status in ("204", "304"):
                    return answer
                return answer.with_body(_read_body(reader, answer, until_closed=True))


def _read_head(reader: BinaryIO) -> Message | None:
    start = reader.readline().decode("latin-1").strip()
    if not start:
        return None
    headers = []
    while line := reader.readline().decode("latin-1").strip():
        key, _, value = line.partition(":")
        headers.append((key, value.strip()))
    return Message(start, headers)


def _read_body(reader: BinaryIO, message: Message, until_closed: bool = False) -> bytes:
    if "chunked" in message.header("transfer-encoding").lower():
        body = b""
        while size := int(reader.readline().split(b";")[0], 16):
            body += reader.read(size)
            reader.readline()
        while reader.readline().strip():
            pass
        message.headers = message.with_body(body).headers
        return body
    length = message.header("content-length")
    if not length:
        return reader.read() if until_closed else b""
    body = reader.read(int(length))
    if len(body) < int(length):
        raise EOFError
    return body


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x10]) + body[middle + 1 :] if body else body


def _error_answer(fault: Answer, method: str) -> Message:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{fault.code}</Code><Message>made by the test</Message></Error>"
    ).encode()
    answer = Message(f"HTTP/1.1 {fault.status} {fault.code}", [("Content-Type", "application/xml")])
    return _for_method(answer.with_body(body), method)


def _for_method(answer: Message, method: str) -> Message:
    return Message(answer.start_line, answer.headers, b"") if method == "HEAD" else answer
