"""Many prompts, methods and sizes: the experiment file, its cells, their records, and resuming.

Runs models; `reports` draws what it wrote.
"""
