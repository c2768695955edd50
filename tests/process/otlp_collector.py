"""A small OTLP/HTTP collector: prints its port, then each span it gets as a line of JSON.

Runs in the environment of requirements-otel.txt, which has the protocol's messages. Refuses the first request
with 503, as a collector may while it starts.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Handler(BaseHTTPRequestHandler):
    refusals = 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if Handler.refusals:
            Handler.refusals -= 1
            self.answer(503, b"")
            return
        export = ExportTraceServiceRequest.FromString(body)
        for resource in export.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    facts = {one.key: one.value.string_value for one in resource.resource.attributes}
                    found = {**MessageToDict(span), "path": self.path, "resource": facts}
                    # The JSON form has base64; ids are compared in hexadecimal.
                    for name in ("trace_id", "span_id", "parent_span_id"):
                        found[name] = getattr(span, name).hex()
                    print(json.dumps(found), flush=True)
        self.answer(200, ExportTraceServiceResponse().SerializeToString())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
