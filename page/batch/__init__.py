"""The batch tab: lists of pictures and sentences, judged by the batches of the API.

frame       the tab's fixed HTML, with the texts for its script
example     a zip that shows what a list looks like
tab.js      the browser's side: upload, the browser's own list of batches, polling
results.js  the table of results: sort, filter, pages
tab.css     its styles
"""
