"""The operations tab: access, HTTP routes, HTML and script.

access   password, sessions, limits on wrong passwords; no HTTP
routes   the tab's HTTP routes, all but the login behind a session   → access, panel
panel    HTML of the tab                                             → plots
plots    time series as SVG
tab.js   the browser's side: polls while the tab is visible
"""
