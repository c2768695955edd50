"""HTTP for programs: /v1, the Open Inference Protocol under /v2, the schema and its documentation.

app        the ASGI application and its site          → judge, model, v2, docs, problems, context
context    what is known of a request before its body: id, caller, language
bodies     the body of a call: multipart or JSON to a question, within limits of memory and time
judge      one picture and up to 32 texts to verdicts
model      what is served
v2         the Open Inference Protocol
tensors    its BYTES and FP32 tensors
schema     the OpenAPI document
docs       the documentation page, made from the schema
observed   counts requests by route and status
problems   every error as application/problem+json
"""
