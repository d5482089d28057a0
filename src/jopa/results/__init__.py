"""Results: values with everything that is needed to judge or repeat them, their JSON form, their page and their frame.

`result` is what all of them offer; `attribution` and `text_attribution` hold what a search found, `prompt_comparison`
what the change of a prompt changed. Diagnoses, citations and verdicts are results, too, and live in their own folders.
"""
