"""What a search does where its caller does not say, and the search from coarse to fine: documents, then sentences.

`request` is what the caller asks, `planning` chooses the method and the levels, `refining` searches level by level;
`level` has what is recorded of each.
"""
