"""Which parts of this prompt, taken together, made the model say this?

import jopa
attribution = jopa.explain("Write a story about the doctor and his patient.", k=3)
print(attribution.chosen, attribution.probability_ratio)
"""

from jopa.attribution import Attribution
from jopa.detection.hostility import Verdict, detect
from jopa.diagnosis import Diagnosis, diagnose
from jopa.errors import InputFileError, JopaError, ModelError, PromptError, ScoringError, SettingError
from jopa.explanation import compare, explain
from jopa.method import Method, Selection
from jopa.methods import METHODS, make_method
from jopa.methods.joint.search import JointSearch
from jopa.methods.paper_search import PaperSearch
from jopa.model.language_model import LanguageModel
from jopa.model.loading import load
from jopa.problem import Problem
from jopa.prompt.building import Prompt, Unit, build_prompt
from jopa.prompt.output import Output
from jopa.prompt.repeated_tokens import RepeatedToken
from jopa.remote.connecting import connect
from jopa.remote.remote_model import RemoteModel
from jopa.scoring.model_scorer import ModelScorer
from jopa.scoring.protocols import Scorer, TextScorer, WhiteBoxScorer

__all__ = [
    "METHODS",
    "Attribution",
    "Diagnosis",
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
    "RemoteModel",
    "RepeatedToken",
    "Scorer",
    "ScoringError",
    "Selection",
    "SettingError",
    "TextScorer",
    "Unit",
    "Verdict",
    "WhiteBoxScorer",
    "build_prompt",
    "compare",
    "connect",
    "detect",
    "diagnose",
    "explain",
    "load",
    "make_method",
]
