"""The public names, pinned: whoever adds or removes one means to."""

import jopa


def test_public_names():
    assert jopa.__all__ == [
        "METHODS",
        "Attribution",
        "DetectionConfig",
        "Diagnosis",
        "Generation",
        "InputFileError",
        "JointSearch",
        "JopaError",
        "LanguageModel",
        "Method",
        "ModelError",
        "ModelScorer",
        "Output",
        "PaperSearch",
        "Problem",
        "Prompt",
        "PromptError",
        "PromptOptions",
        "RemoteModel",
        "RepeatedToken",
        "Scorer",
        "ScoringError",
        "Selection",
        "SettingError",
        "StoppedError",
        "TextScorer",
        "Unit",
        "Verdict",
        "WhiteBoxScorer",
        "__version__",
        "build_prompt",
        "compare",
        "connect",
        "detect",
        "diagnose",
        "explain",
        "load",
        "make_method",
    ]
    assert all(hasattr(jopa, name) for name in jopa.__all__)


def test_every_public_name_says_what_it_is():
    for name in jopa.__all__:
        assert name == "METHODS" or getattr(jopa, name).__doc__, name
