"""The web page: Gradio's layout and handlers, texts in two languages, and the HTTP server around them.

    server         the socket, the server's thread, start and stop    → gate, layout, operations
    gradio_setup   environment, logging and limits of Gradio
    connections    uvicorn with limits on connections
    gate           ASGI middleware: path allowlist, validation         → bodies, headers, calls, upload_routes
    bodies         framing and size of request bodies, refusals        → quota
    headers        validation of headers, what reaches Gradio, callers
    calls          validation of calls to Gradio's queue
    sessions       the sessions of Gradio's queue
    upload_routes  upload, progress and download of pictures           → multipart, uploads
    multipart      streaming parser for an upload form
    uploads        the store of uploaded pictures                      → quota
    quota          a capacity with a limit for each caller
    log_limit      rate limit for log lines
    access         a password, its sessions, limits on wrong passwords
    login          login and logout over HTTP, and the login page     → access
    operations     the operations tab                                 → login
    layout         the components and their events                     → handlers, picture, card
    picture        the picture input: a path, not decoded
    handlers       from Gradio's call to the application and back      → pending, verdicts
    pending        queue position and estimated wait as HTML
    verdicts       a verdict or an error as HTML
    banner         the status line as HTML
    card           the model's description and examples
    words          texts in English and Chinese

Importing a module here starts nothing. ``layout``, ``picture`` and ``handlers`` import Gradio, which takes
seconds, so ``server`` imports them only in ``start``.
"""
