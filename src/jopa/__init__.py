"""Which parts of this prompt, taken together, made the model say this?

import jopa
attribution = jopa.explain("Write a story about the doctor and his patient.", k=3)
print(attribution.chosen, attribution.probability_ratio)
"""

from importlib.metadata import version as _version

from jopa.citation.citing import cite
from jopa.citation.result import Citation, Citations
from jopa.detection.calibration import Calibration
from jopa.detection.hostility import detect
from jopa.detection.screening import calibrate_detection
from jopa.detection.settings import DetectionConfig
from jopa.detection.verdict import Verdict
from jopa.diagnosis.diagnosing import diagnose
from jopa.diagnosis.result import Diagnosis
from jopa.errors import InputFileError, JopaError, ModelError, PromptError, ScoringError, SettingError, StoppedError
from jopa.explanation.explaining import compare, cost_at_most, explain
from jopa.explanation.searching import SearchOptions
from jopa.method import Method, Ranking, RankingMethod, Selection
from jopa.methods import METHODS, make_method
from jopa.methods.joint.search import JointSearch
from jopa.methods.paper_search import PaperSearch
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel
from jopa.model.loading import load
from jopa.model.threads import use_threads
from jopa.preparation import Callbacks
from jopa.problem import Best, Problem
from jopa.prompt.building import Prompt, Unit, build_prompt
from jopa.prompt.documents import Document
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.repeated_tokens import RepeatedToken
from jopa.remote.chat_model import ChatModel
from jopa.remote.connecting import connect
from jopa.remote.remote_model import RemoteModel
from jopa.reports.views import to_frame, to_html
from jopa.results.attribution import Attribution, comparison_from_json, comparison_json
from jopa.results.prompt_comparison import PromptComparison
from jopa.results.text_attribution import TextAttribution
from jopa.scoring.model_scorer import ModelScorer
from jopa.scoring.profile import Profile
from jopa.scoring.protocols import Model, PromptScorer, Scorer, TextScorer, WhiteBoxScorer
from jopa.scoring.work import Work

__all__ = [
    "METHODS",
    "Attribution",
    "Best",
    "Calibration",
    "Callbacks",
    "ChatModel",
    "Citation",
    "Citations",
    "DetectionConfig",
    "Diagnosis",
    "Document",
    "Generation",
    "InputFileError",
    "JointSearch",
    "JopaError",
    "LanguageModel",
    "Method",
    "Model",
    "ModelError",
    "ModelScorer",
    "Output",
    "PaperSearch",
    "Problem",
    "Profile",
    "Prompt",
    "PromptComparison",
    "PromptError",
    "PromptOptions",
    "PromptScorer",
    "Ranking",
    "RankingMethod",
    "RemoteModel",
    "RepeatedToken",
    "Scorer",
    "ScoringError",
    "SearchOptions",
    "Selection",
    "SettingError",
    "StoppedError",
    "TextAttribution",
    "TextScorer",
    "Unit",
    "Verdict",
    "WhiteBoxScorer",
    "Work",
    "__version__",
    "build_prompt",
    "calibrate_detection",
    "cite",
    "compare",
    "comparison_from_json",
    "comparison_json",
    "connect",
    "cost_at_most",
    "detect",
    "diagnose",
    "explain",
    "load",
    "make_method",
    "to_frame",
    "to_html",
    "use_threads",
]

__version__ = _version("jopa")
"""The version of the installed package."""
