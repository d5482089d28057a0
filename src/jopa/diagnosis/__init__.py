"""How each request of a prompt influences the answer.

`diagnosing` removes each unit and measures (`diagnose`); `result` holds what was measured (`Diagnosis`).
"""
