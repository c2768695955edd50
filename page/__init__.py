"""The web page: Gradio's layout and handlers, texts in two languages.

    site           the page built, drained and closed                 → gate, layout, operations
    gradio_setup   environment, logging and limits of Gradio
    gate           ASGI middleware: path allowlist, validation         → forwarding, calls, upload_routes
    forwarding     the request headers that reach Gradio
    calls          validation of calls to Gradio's queue
    sessions       the sessions of Gradio's queue
    upload_routes  upload, progress and download of pictures           → uploads
    uploads        the store of uploaded pictures
    access         a password, its sessions, limits on wrong passwords
    login          login and logout over HTTP, and the login page     → access
    operations     the operations tab                                 → login
    batch          the batch tab
    ask            the rows of the ask tab, drawn in the browser
    layout         the components and their events                     → handlers, picture, card, batch, ask
    picture        the picture input: a path, not decoded
    handlers       from Gradio's call to the application and back      → pending, verdicts
    pending        queue position and estimated wait as text
    verdicts       a verdict or an error as data for the rows
    banner         the status line as HTML
    card           the model's description and examples
    words          texts in English and Chinese

Importing a module here starts nothing. ``layout``, ``picture`` and ``handlers`` import Gradio, which takes
seconds, so ``site`` imports them only in ``start``.
"""
