"""How faithful an explanation is: the answer, and the probability of the original answer, without the chosen units.

The metrics of section 5.2 of the paper (arXiv 2405.20404), in two families:

    text           the original output y is the reference, the counterfactual output y' the candidate
    probability    the tokens of y, scored with the whole prompt x and without the chosen units, m ⊙ x

and beside them sufficiency, the probability of y with the chosen units alone (Cohen-Wang et al. 2024, arXiv 2409.00729;
Chuang et al. 2025, arXiv 2502.09604).

`METRICS` names them all in the order of the paper's Table 1 and says which direction is the more faithful; other
packages add theirs. docs/metrics.md sets the definitions beside what the paper's authors computed.

Sees texts and log-probabilities; knows no model, prompt or units.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from jopa.errors import ScoringError, SettingError
from jopa.evaluation.metric import Metric, checked_metric
from jopa.plugins.registry import Registry

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_ORDERS = 4
"""The longest n-grams of BLEU."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that put no blanks between words; each of their characters counts as a word."""


_BUILTIN: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("bleu", "BLEU", "lower", "sacreBLEU's sentence BLEU of the new output against the original, 0 to 1"),
        Metric("bleu_char", "BLEU (chars)", "lower", "BLEU over characters without smoothing, as the authors computed"),
        Metric("rouge_l_precision", "ROUGE-L P", "lower", "longest common subsequence / words of the new output"),
        Metric("rouge_l_recall", "ROUGE-L R", "lower", "longest common subsequence / words of the original output"),
        Metric("rouge_l_f1", "ROUGE-L F1", "lower", "harmonic mean of ROUGE-L precision and recall"),
        Metric("sentence_bert", "SentenceBert", "lower", "cosine of the two outputs' all-MiniLM-L6-v2 embeddings"),
        Metric(
            "pr", "PR", "lower", "geometric-mean token probability of the original output, without / with the units"
        ),
        Metric("kl", "KL", "higher", "mean over output tokens of D(p(·|m⊙x) ‖ p(·|x)) over the vocabulary, in nats"),
        Metric(
            "kl_chosen", "KL (chosen)", "higher", "divergence of the output tokens' own probabilities, as the authors"
        ),
        Metric("log_likelihood", "log p", "lower", "log-probability of the original output without the units, in nats"),
        Metric(
            "sufficiency",
            "Sufficiency",
            "higher",
            "PR with the chosen units alone, of all units; 1 = they are enough",
        ),
    )
}
METRICS: Registry[Metric] = Registry(
    "metric", "jopa.metrics", _BUILTIN, checked_metric, lambda thing: getattr(thing, "name", None)
)
"""Every metric by name, in table order: built in, registered with `METRICS.register`, or of an installed package."""


def text_metrics(original: str, counterfactual: str) -> dict[str, float]:
    """All metrics of two texts that need no model: `bleu`, `bleu_char` and the three of ROUGE-L, each in [0, 1].

    Args:
        original: the output for the whole prompt, the reference.
        counterfactual: the output without the chosen units, the candidate.

    Raises:
        SettingError: sacrebleu or rouge-score is not installed.
    """
    precision, recall, f1 = rouge_l(original, counterfactual)
    return {
        "bleu": bleu(original, counterfactual),
        "bleu_char": bleu_char(original, counterfactual),
        "rouge_l_precision": precision,
        "rouge_l_recall": recall,
        "rouge_l_f1": f1,
    }


def bleu(original: str, counterfactual: str) -> float:
    """Sentence BLEU by sacreBLEU, divided by 100: what `sacrebleu.sentence_bleu(counterfactual, [original])` gives.

    Up to 4-grams, brevity penalty, tokenizer 13a, case kept, smoothing "exp", and `effective_order`: orders for which
    the candidate is too short are left out; otherwise every text of fewer than four words would score 0. Chinese,
    Japanese, Thai, Lao, Khmer and Burmese characters each count as a word. Identical texts and two blank texts give
    exactly 1; texts without a common word, and a blank text compared with another one, give 0.

    Source: Papineni et al. 2002, https://aclanthology.org/P02-1040; Post 2018, https://aclanthology.org/W18-6319.

    Raises:
        SettingError: sacrebleu is not installed.
    """
    scorer = _bleu_scorer()
    if original == counterfactual or not (original.strip() or counterfactual.strip()):
        return 1.0
    # It computes exp of a mean of logarithms, which can round to a little more than 100.
    return min(1.0, scorer.sentence_score(_spaced(counterfactual), [_spaced(original)]).score / 100)


def bleu_char(original: str, counterfactual: str) -> float:
    """4-gram BLEU over characters, blanks and line breaks included, with brevity penalty and no smoothing.

    The quantity in the authors' tables: NLTK's `sentence_bleu`, which expects lists of words, called on raw strings.
    Two things differ. Where no n-gram of an order is shared, NLTK uses the smallest float for that precision, and its
    result is far below 1e-70; this function gives 0. Identical texts of fewer than four characters, which have no
    4-gram, give 1 here.

    Raises:
        SettingError: sacrebleu is not installed.
    """
    compute = _bleu_scorer().compute_bleu
    if original == counterfactual:
        return 1.0
    shared, total = [], []
    for order in range(1, _ORDERS + 1):
        reference, candidate = _character_ngrams(original, order), _character_ngrams(counterfactual, order)
        shared.append((reference & candidate).total())
        total.append(candidate.total())
    return min(1.0, compute(shared, total, len(counterfactual), len(original)).score / 100)


def rouge_l(original: str, counterfactual: str) -> tuple[float, float, float]:
    """ROUGE-L precision, recall and F1 by rouge-score: the longest common subsequence of words over words.

    Words are those of `rouge_words`, not stemmed. Two texts without any word give (1, 1, 1); a text without
    any word and one with words give (0, 0, 0).

    Source: Lin 2004, https://aclanthology.org/W04-1013.

    Raises:
        SettingError: rouge-score is not installed.
    """
    scorer = _rouge_scorer()
    if not (rouge_words(original) or rouge_words(counterfactual)):
        return 1.0, 1.0, 1.0
    score = scorer.score(original, counterfactual)["rougeL"]
    return float(score.precision), float(score.recall), float(score.fmeasure)


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE-L compares: lower-cased runs of letters and digits of any script.

    rouge-score's own tokenizer keeps only a–z and 0–9, so a Russian text would have no word in common with itself; on
    ASCII text the two agree. Letters keep their combining marks and are composed (NFC). Each character of a script
    without blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) and each emoji is a word of its own.
    """
    return _word_pattern().findall(unicodedata.normalize("NFC", text.lower()))


def probability_ratio(log_prob: float, log_prob_removed: float, length: int) -> float:
    """PR = (p(y|m⊙x) / p(y|x))^(1/length): the ratio of length-normalised probabilities (paper, section 5.2).

    Args:
        log_prob: log p(y|x), summed over the target tokens, in nats.
        log_prob_removed: the same without the chosen units.
        length: number of target tokens.

    Returns:
        1 if the units do not matter, near 0 if y depends on them, above 1 if they made y less likely; infinity if the
        ratio is too large for a float.

    Raises:
        SettingError: length is below 1.
        ScoringError: the ratio is not a number.
    """
    if length < 1:
        raise SettingError(f"length must be at least 1 target token, got {length}")
    exponent = (log_prob_removed - log_prob) / length
    if math.isnan(exponent):
        raise ScoringError(f"no probability ratio of log-probabilities {log_prob_removed} and {log_prob}")
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def kl(log_p_removed: Float[Tensor, "out vocab"], log_p: Float[Tensor, "out vocab"]) -> float:
    """Mean over output positions of D_KL(p(·|m⊙x) ‖ p(·|x)) over the whole vocabulary, in nats (paper, section 5.2).

    Computed in float64, one position at a time, each distribution normalised again: otherwise rounding of lower
    precisions would give small negative values. Tokens of probability 0 (−inf) are allowed.

    Args:
        log_p_removed: log-probabilities without the chosen units; row t predicts output token t after y_1 … y_{t−1}.
        log_p: the same for the whole prompt.

    Returns:
        At least 0; infinite where a token impossible under the whole prompt is possible without the units.

    Raises:
        SettingError: the shapes differ, or there is no position.
        ScoringError: a row holds NaN or gives no token any probability.
    """
    import torch

    if log_p_removed.shape != log_p.shape or log_p.ndim != 2 or 0 in log_p.shape:
        raise SettingError(
            "kl needs two tables of the same shape [output tokens, vocabulary], "
            f"got {tuple(log_p_removed.shape)} and {tuple(log_p.shape)}"
        )
    rows = [_divergence(removed, whole) for removed, whole in zip(log_p_removed, log_p, strict=True)]
    return _checked("kl", float(torch.stack(rows).mean()))


def kl_chosen(
    token_log_probs: Float[Tensor, "out"] | Sequence[float],
    token_log_probs_removed: Float[Tensor, "out"] | Sequence[float],
) -> float:
    """Σ a_t log(a_t / b_t), where a and b are the output tokens' own probabilities, each divided by its sum.

    The quantity in the authors' tables, a distribution over positions: a from the whole prompt, b without the units. It
    measures how the loss of probability is distributed over the output, not how large it is.

    Args:
        token_log_probs: log p(y_t|x, y_<t) of each target token, in nats.
        token_log_probs_removed: the same without the chosen units.

    Returns:
        At least 0, in nats; infinite where a token possible under the whole prompt is impossible without the units.

    Raises:
        SettingError: the lengths differ, or there is no token.
        ScoringError: a value is NaN, or no token has any probability.
    """
    import torch

    whole, removed = _floats(token_log_probs), _floats(token_log_probs_removed)
    if len(whole) != len(removed) or not whole:
        raise SettingError(
            "kl_chosen needs one log-probability a target token from both runs, "
            f"got {len(whole)} and {len(removed)} of them"
        )
    return _checked("kl_chosen", float(_divergence(*torch.tensor([whole, removed], dtype=torch.float64))))


def log_likelihood(token_log_probs_removed: Float[Tensor, "out"] | Sequence[float]) -> float:
    """log p(y|m⊙x), summed over the target tokens, in nats (paper, Table 5).

    Args:
        token_log_probs_removed: log p(y_t|m⊙x, y_<t) of each target token, in nats.

    Raises:
        SettingError: there is no token.
        ScoringError: a value is NaN.
    """
    values = _floats(token_log_probs_removed)
    if not values:
        raise SettingError("log_likelihood needs at least one target token")
    return _checked("log_likelihood", math.fsum(values))


def _floats(values: Tensor | Sequence[float]) -> list[float]:
    """The values as Python floats, copied from their device in one step."""
    return [float(value) for value in (values if isinstance(values, Sequence) else values.tolist())]


def _divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """D_KL(a ‖ b) of two distributions `[values]` that are normalised here, a float64 scalar."""
    import torch

    log_a, log_b = (torch.log_softmax(_double(values), dim=0) for values in (log_a, log_b))
    a = log_a.exp()
    # 0 log 0 is 0, whatever the difference of logarithms; NaN is kept.
    return torch.where(a == 0, 0.0, a * (log_a - log_b)).sum().clamp_min(0)


def _double(values: Tensor) -> Tensor:
    """The values in float64, which Apple's GPUs do not have."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _checked(name: str, value: float) -> float:
    if math.isnan(value):
        raise ScoringError(f"metric '{name}' got log-probabilities that are no distribution (NaN, or all −inf)")
    return value


def _character_ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


@cache
def _bleu_scorer() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise _missing("bleu", "sacrebleu") from error
    return BLEU(max_ngram_order=_ORDERS, smooth_method="exp", effective_order=True)


@cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import Tokenizer
    except ImportError as error:
        raise _missing("rouge_l", "rouge-score") from error

    class EveryScript(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return rouge_words(text)

    return RougeScorer(["rougeL"], tokenizer=EveryScript())


def _missing(metric: str, package: str) -> SettingError:
    return SettingError(f"metric '{metric}' needs the package {package}: pip install \"jopa[metrics]\"")


@cache
def _word_pattern() -> Any:
    import regex  # comes with transformers; the standard library's re knows no scripts

    return regex.compile(
        rf"(?V1)[{_UNSPACED}]\p{{M}}*"
        rf"|[[\p{{L}}\p{{N}}]--[{_UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]*"
        r"|\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F"  # not © and ™, unless shown as pictures
    )


@cache
def _unspaced_pattern() -> Any:
    import regex

    return regex.compile(rf"([{_UNSPACED}]\p{{M}}*)")


def _spaced(text: str) -> str:
    """The text with blanks around each character of a script that has none between words."""
    return _unspaced_pattern().sub(r" \1 ", text)
