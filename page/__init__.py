"""The page people use: Gradio's layout and handlers, the words in two languages, the server around them.

    server   the port, the HTTP server's thread, starting and stopping         → gate, layout, operations
    uploads  the folder that pictures go to, and how they leave it
    gate     what may be asked of the port at all; headers; size of bodies
    operations   the calls of the operations tab, all but one behind a guard   → access, panel
    access   passwords, sessions, guesses: who may make those calls
    panel    from what an operator may see to HTML                             → banner, plots, words
    plots    lines over the last hour as SVG
    layout   the components and their events                                   → judging, picture, words, card
    picture  the picture input that hands over a path and decodes nothing
    judging  the handlers: from Gradio's call to the application and back      → pending, verdicts, words
    pending  what is said while an answer is awaited, as HTML
    verdicts from a verdict or an error to HTML
    banner   from the application's snapshot to HTML                           → pending, verdicts
    card     what the served model says it knows, and its examples
    words    English and Chinese, and which of them a request wants

Importing a module here starts nothing; ``layout``, ``picture`` and ``judging`` import Gradio, which takes
seconds, so ``server`` imports them only when it starts.
"""
