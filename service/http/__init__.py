"""What any public HTTP front needs: uvicorn within limits, bodies, forms, headers. No routes.

server      uvicorn with limits on connections                → errors
errors      log lines about exceptions, without messages      → log_limit
bodies      framing and size of request bodies, refusals      → quota
multipart   streaming parser for forms
headers     validation of headers, the caller                 → bodies
language    the language of an answer
quota       a capacity with a limit for each caller
log_limit   rate limit for log lines
"""
