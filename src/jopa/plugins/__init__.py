"""What other packages add to jopa: methods, metrics and data sets, by entry point or by a call.

`registry.Registry` is the table that holds them; `jopa.METHODS`, `jopa.METRICS` and `jopa.DATASETS` are three of them.
"""
