"""The engine of another process, or of many behind a proxy, over the HTTP API: --engine URL."""
