"""From text and messages to token ids, units and template.

Knows tokenizers, no model.
"""
