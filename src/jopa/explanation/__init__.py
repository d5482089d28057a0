"""Which k units of a prompt, taken together, made the model say this: `explain` and `compare`.

`explaining` offers them. `request` is what the caller asks, `planning` chooses the method and the levels where the
caller does not say, `searching` runs one search, `attributing` adds the evidence, `refining` searches level by level
from coarse to fine; `level` has what is recorded of each.
"""
