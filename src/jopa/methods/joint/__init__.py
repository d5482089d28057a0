"""The default search: a Gaussian process over sets of units proposes what is scored next.

`search` runs it; `gaussian_process`, `priors` and `neighbours` are its parts.
"""
