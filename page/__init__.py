"""The page people use: Gradio's layout and handlers, the words in two languages, the server around them.

    server   the port, the HTTP server's thread, starting and stopping         → gate, layout, operations
    gate     what may be asked of the port at all                              → the six below
    bodies   how a body may be framed, how much of it is read, refusals        → shares
    headers  which headers are refused, and which reach Gradio
    calls    what may be asked of Gradio's queue, written anew
    sessions who reads a session's answers, and what may be forgotten
    receiving the calls about pictures: upload, progress, looking at one      → multipart, uploads
    quiet    what libraries would print                                        → log_limit
    multipart a form with files, read as it comes
    uploads  the folder that pictures go to, its budget, and how they leave it → shares
    shares   something limited, of which no caller may take all
    log_limit lines that strangers can cause, now and then
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
