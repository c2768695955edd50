"""A model hub on loopback with the protocol of the pinned ModelScope client and injectable faults.

    GET /api/v1/models/<namespace>/<name>/repo/files?Revision=&Recursive=True    the file list
    GET /api/v1/models/<namespace>/<name>/repo?Revision=&FilePath=               a file

Like the real hub, it redirects large files to a storage that honours Range, and sends small ones directly,
ignoring Range.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LARGE = 64 * 1024
CHUNK = 16 * 1024


@dataclass(frozen=True)
class Seen:
    """A request for a file: its name and Range header."""

    file: str
    range: str | None


@dataclass
class Faults:
    """Faults per file; each answer consumes one entry of a list."""

    list_status: list[int] = field(default_factory=list)
    list_body: bytes | None = None
    list_without_checksums: bool = False
    file_status: dict[str, list[int]] = field(default_factory=dict)
    cut_after: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before the connection is cut
    flipped: dict[str, int] = field(default_factory=dict)  # number of answers with one wrong byte
    before: dict[str, Callable[[], None]] = field(default_factory=dict)  # called before the first byte
    halfway: dict[str, Callable[[], None]] = field(default_factory=dict)  # called after half of the bytes
    pause: float = 0.0  # seconds before each chunk of a file
    before_list: Callable[[], None] | None = None


class Hub:
    """Serve ``repositories``: (model, revision) -> {path: content}. Use it as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.faults = Faults()
        self.listings = 0
        self.files: list[Seen] = []
        self.strays: list[str] = []
        self.user_agents: set[str] = set()
        self.sent: defaultdict[str, int] = defaultdict(int)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = False  # closing joins the threads
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), name="hub")
        self.running = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def requested(self) -> list[str]:
        """Return the names of the requested files, in order, without repetition."""
        return list(dict.fromkeys(seen.file for seen in self.files))

    def ranges(self, file: str) -> list[str | None]:
        return [seen.range for seen in self.files if seen.file == file]

    def forget(self) -> None:
        self.listings, self.files, self.sent = 0, [], defaultdict(int)

    def __enter__(self) -> Hub:
        self.thread.start()
        self.running = True
        return self

    def stop(self) -> None:
        if self.running:
            self.running = False
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            parts = address.path.strip("/").split("/")
            hub.user_agents.add(self.headers.get("User-Agent", ""))
            try:
                if parts[:3] == ["api", "v1", "models"] and parts[5:] == ["repo", "files"]:
                    self.list_files("/".join(parts[3:5]), query["Revision"])
                elif parts[:3] == ["api", "v1", "models"] and parts[5:] == ["repo"]:
                    self.find_file("/".join(parts[3:5]), query["Revision"], query["FilePath"])
                elif parts[0] == "storage":
                    self.send_stored("/".join(parts[1:3]), query["Revision"], query["FilePath"])
                else:
                    hub.strays.append(self.path)
                    self.refuse(404)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client disconnected

        def list_files(self, model: str, revision: str) -> None:
            hub.listings += 1
            if hub.faults.before_list is not None:
                hub.faults.before_list()
            files = hub.repositories.get((model, revision))
            if hub.faults.list_status:
                self.refuse(hub.faults.list_status.pop(0))
            elif hub.faults.list_body is not None:
                self.answer(200, hub.faults.list_body, "text/html")
            elif files is None:
                self.refuse(404)
            else:
                self.send_list(files)

        def send_list(self, files: dict[str, bytes]) -> None:
            listed = [self.entry(path, content) for path, content in files.items()]
            folders = sorted({path.rpartition("/")[0] for path in files} - {""})
            listed += [{"Name": path, "Path": path, "Type": "tree", "Size": 0} for path in folders]
            body = {"Code": 200, "Data": {"Files": listed}, "Message": "success", "Success": True}
            self.answer(200, json.dumps(body).encode())

        def entry(self, path: str, content: bytes) -> dict[str, object]:
            checksum = "" if hub.faults.list_without_checksums else hashlib.sha256(content).hexdigest()
            name, large = path.rpartition("/")[2], len(content) >= LARGE
            known = {"Name": name, "Path": path, "Type": "blob", "Size": len(content)}
            return known | {"Sha256": checksum, "IsLFS": large, "Revision": "0" * 40}

        def find_file(self, model: str, revision: str, path: str) -> None:
            hub.files.append(Seen(path, self.headers.get("Range")))
            content = hub.repositories.get((model, revision), {}).get(path)
            if content is None:
                self.refuse(404)
            elif hub.faults.file_status.get(path):
                self.refuse(hub.faults.file_status[path].pop(0))
            elif len(content) < LARGE:
                self.send_content(path, content, 0)
            else:
                self.send_response(302)
                address = urlsplit(self.path)
                self.send_header("Location", f"{hub.endpoint}/storage/{model}?{address.query}")
                self.end_empty()

        def send_stored(self, model: str, revision: str, path: str) -> None:
            content = hub.repositories[model, revision][path]
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if wanted and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_empty()
            else:
                self.send_content(path, content, start, partial=wanted is not None)

        def send_content(self, path: str, content: bytes, start: int, *, partial: bool = False) -> None:
            faults = hub.faults
            if faults.flipped.get(path):
                faults.flipped[path] -= 1
                content = content[:-1] + bytes([content[-1] ^ 1])
            if path in faults.before:
                faults.before.pop(path)()
            cuts = faults.cut_after.get(path)
            end = min(len(content), start + cuts.pop(0)) if cuts else len(content)
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Connection", "close")
            self.end_headers()
            for position in range(start, end, CHUNK):
                if position >= len(content) // 2 and path in faults.halfway:
                    self.wfile.flush()
                    faults.halfway.pop(path)()
                block = content[position : min(position + CHUNK, end)]
                time.sleep(faults.pause)
                hub.sent[path] += len(block)  # before writing: a client may check right after the last block
                self.wfile.write(block)

        def refuse(self, status: int) -> None:
            body = {"Code": 10010205001, "Message": "refused", "RequestId": "test", "Success": False}
            self.answer(status, json.dumps(body).encode())

        def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def end_empty(self) -> None:
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

    return Handler
