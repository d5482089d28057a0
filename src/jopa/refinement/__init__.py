"""From coarse to fine: whole documents first, then the sentences inside those that matter.

`refining` searches level by level; `level` holds what is recorded of each.
"""
