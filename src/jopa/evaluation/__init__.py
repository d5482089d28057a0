"""Faithfulness: remove what was chosen, generate again, and measure how far the answer moved."""
