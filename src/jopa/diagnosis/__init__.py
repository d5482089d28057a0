"""What an answer makes of each request of a prompt.

`diagnosing` removes each unit and measures (`diagnose`); `result` holds what was measured (`Diagnosis`).
"""
