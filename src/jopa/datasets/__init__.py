"""Prompts to explain: the named data sets and any JSONL file."""
