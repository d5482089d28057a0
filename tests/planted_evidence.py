"""What a run of `detect` may have gathered about a prompt, written down by hand."""

from jopa.detection.verdict import Answer, Evidence, Segment

EVIDENCE = Evidence(
    answer=Answer("compliance", 4),
    log_prob=-2.0,
    refusal=-12.0,
    surprisals=(1.0, 1.0, 2.0, 8.0, 9.0, 3.0, 2.0, 2.0),
    units=(4, 3, 0),
    joint=6.0,
    individual=(3.5, 0.5, 0.0),
    span=Segment(3, 5, 2.0),
    span_answer=Answer("refusal", 3),
    span_refusal=-9.0,
    tokens=8,
    ffe=9.0,
    seconds=1.0,
)
