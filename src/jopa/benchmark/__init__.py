"""Many prompts, methods and sizes: the experiment file, its cells, their records, and resuming.

Runs models; `reports` turns its records into tables and figures.
"""
