"""A small HTTP server for files: ranges, cut connections, overload, slowness."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Mirror:
    """Serves `folder`; the switches may be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = True
        self.cut_every = 0  # every n-th answer ends in its middle
        self.overload_every = 0  # every n-th request is answered with 503
        self.bytes_per_second = 0
        self.requests: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        self._count = 0
        self._lock = threading.Lock()

    def next_number(self) -> int:
        with self._lock:
            self._count += 1
            return self._count

    @contextlib.contextmanager
    def running(self):
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                name = unquote(urlsplit(self.path).path).lstrip("/")
                mirror.requests[name] += 1
                path = mirror.folder / name
                number = mirror.next_number()
                if mirror.overload_every and number % mirror.overload_every == 0:
                    return self.empty(503)
                if not path.is_file():
                    return self.empty(404)
                data = path.read_bytes()
                start, stop = 0, len(data)
                wanted = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
                if wanted and mirror.ranges:
                    start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
                else:
                    self.send_response(200)
                self.send_header("ETag", f'"{len(data)}-{path.stat().st_mtime_ns}"')
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                if with_body:
                    cut = mirror.cut_every and number % mirror.cut_every == 0 and stop - start > 1
                    self.send(name, data[start : (start + stop) // 2 if cut else stop])
                    self.close_connection = cut or self.close_connection
                return None

            def send(self, name, data):
                for position in range(0, len(data), 8192):
                    chunk = data[position : position + 8192]
                    with contextlib.suppress(OSError):
                        self.wfile.write(chunk)
                        mirror.bytes_sent[name] += len(chunk)
                    if mirror.bytes_per_second:
                        time.sleep(len(chunk) / mirror.bytes_per_second)

            def empty(self, status):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
