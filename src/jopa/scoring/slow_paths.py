"""What people read where a fast path is switched off for a model. Texts alone."""

SLOW_PATHS = {
    "target_logits": "logits are made for all positions: the model's head cannot be given some of them",
    "packed": "weights are not packed: packed products disagree with the model's own",
    "positions": "positions are left to the model: given ones change its scores",
    "batches": "each row has a forward of its own: rows of different length disagree in one batch",
    "whole": "only the tokens before the first unit are reused: the model's cache cannot be cut",
    "no cache": "no cached beginning is reused: tokens after it would score differently",
    "mixes": "cached beginnings of different prompts do not share a forward: they disagree in one batch",
    "embeddings": "embeddings are not used: they score differently from the ids they stand for",
    "generation": "answers are generated without a cache: transformers' own generation disagrees with plain forwards",
    "generated batches": "answers are generated one by one: rows of different length disagree in one batch",
    "alone": "each row has a forward of its own, nothing is cached: the length of a row changes the model's scores",
    "embedded prefix": "embeddings do not follow a cached beginning: they would score differently",
    "gradients": "no gradients: the model's scores cannot be differentiated by its input embeddings",
    "hide": "no token can be hidden: the model's mask does not hide it, or moves later tokens",
    "hidden prefix": "no cached beginning is reused with hidden tokens: they would score differently",
    "packed rows": "rows of the proxy copy the cache of the context: rows in one sequence score differently",
    "scaled attention": "attention to single tokens is not made weaker: the model's attention takes no factors",
}
"""The line of each fast path that is not taken, or of the reason, by the name that code has for it."""
