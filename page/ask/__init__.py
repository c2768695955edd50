"""The ask tab in the browser: rows of questions with their answers, and their history.

frame       the host of the rows with its texts, and the script: the files below, in order
pictures    the bytes of pictures, uploaded again when the server has deleted them
history     groups and rows in the browser's IndexedDB
copying     rows as JSON and as curl
rows        the elements of rows and groups
ask         questions, one call at a time through Gradio's events
form        pictures and sentences that are dropped, pasted or taken from the history
keys        buttons and keyboard
restore     the history when the page opens
"""
