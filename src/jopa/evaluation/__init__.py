"""Faithfulness: remove the chosen units, generate again, and measure how much the answer changed."""
