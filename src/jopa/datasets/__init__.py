"""Prompts to explain: the named data sets, any JSONL file, and long contexts of documents with a question."""
