"""Citations: for each sentence of an answer, the source sentences of the documents that it depends on.

`citing.cite` makes them; `search` finds the sets, `result` holds them and their JSON form.
"""
