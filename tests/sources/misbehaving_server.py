"""An HTTP server on loopback that serves one file and misbehaves as it is told, one manner a request."""

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """manners: what to do at the 1st, 2nd, ... request, the last one for ever.

    asked, conditions: the requests' Range and If-Range headers.
    """

    daemon_threads = True

    def __init__(self, body: bytes, manners: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.manners = body, '"first"', manners
        self.asked: list[str | None] = []
        self.conditions: list[str | None] = []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def change(self) -> None:
        """From now on it is another file of the same size, in its beginning too."""
        self.body, self.etag = self.body[:200] + bytes(byte ^ 1 for byte in self.body[200:]), '"second"'

    def handle_error(self, *_: object) -> None:
        """The client hung up: not worth a traceback."""


class Handler(BaseHTTPRequestHandler):
    """A manner: a status ("503", or "503 after 7" seconds), "html", or phrases from below, as in "drops, no length"."""

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        manner = server.manners[min(len(server.asked), len(server.manners) - 1)]
        server.asked.append(wanted)
        server.conditions.append(self.headers.get("If-Range"))
        status, _, after = manner.partition(" after ")
        if status.isdigit():
            self.send_response(int(status))
            if after:
                self.send_header("Retry-After", after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if manner == "html":
            return self.answer(200, b"<!DOCTYPE html><html><body>This link has expired</body></html>")
        fresh = self.headers.get("If-Range") in (None, server.etag) or "ignores If-Range" in manner
        if wanted and fresh and "ignores Range" not in manner:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + ("begins a byte later" in manner)
            return self.answer(206, server.body[start:], start, manner)
        return self.answer(200, server.body, 0, manner)

    def answer(self, code: int, body: bytes, start: int = 0, manner: str = "") -> None:
        total = len(self.server.body)
        self.send_response(code)
        if "packs" in manner:  # though the client asks it not to
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        if "no ETag" not in manner:
            self.send_header("ETag", self.server.etag)
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if "in chunks" in manner:
            self.send_header("Transfer-Encoding", "chunked")
        elif "no length" not in manner:
            self.send_header("Content-Length", str(len(body) + (100 if "claims more" in manner else 0)))
        self.end_headers()
        half = 0 if "sends nothing" in manner else len(body) // 2
        if "in chunks" in manner:  # the first ones of a byte each
            for chunk in (*(body[i : i + 1] for i in range(200)), body[200:], b""):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            return
        self.wfile.write(body[:half])
        if "stalls" in manner:
            self.server.stopping.wait(2)
        elif "drops" not in manner and "sends nothing" not in manner:
            self.wfile.write(body[half:] + (bytes(9) if "goes on" in manner else b""))
        if "then changes" in manner:
            self.server.change()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serve(body: bytes, *manners: str):
    """A running Server, stopped at the end."""
    with Server(body, list(manners or ["well"])) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:  # else the thread of a test that failed would poll the closed socket for ever
            server.stopping.set()
            server.shutdown()
            thread.join()
