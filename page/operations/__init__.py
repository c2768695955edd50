"""The operations tab: HTTP routes, HTML and script.

routes   the tab's HTTP routes, all but the login behind a session   → page.login, panel
panel    HTML of the tab                                             → plots
plots    time series as SVG
tab.js   the browser's side: polls while the tab is visible
"""
