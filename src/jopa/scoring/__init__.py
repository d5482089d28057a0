"""Log-probabilities of an output under keep masks.

`protocols` says what a scorer gives; `model_scorer` is the one over a local model; the rest plans and runs forwards.
"""
