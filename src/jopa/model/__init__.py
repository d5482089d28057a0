"""A causal language model: loading, generation, and the weights it multiplies by.

Knows ids, nothing of units or masks.
"""
