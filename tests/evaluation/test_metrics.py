"""Metrics against values worked out by hand, the libraries themselves, and slow programs written for the test."""

import functools
import inspect
import math
import random
import subprocess
import sys
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jopa.errors import ScoringError, SettingError
from jopa.evaluation import metrics
from jopa.evaluation.metrics import METRICS

TEXTS = {
    "english": ("The price of a good rises when demand rises.", "The price of good bread falls, when demand rises."),
    "russian": ("Кошка сидит дома и спит.", "Кошка сидит дома одна."),
    "chinese": ("我喜欢猫和狗。", "我喜欢猫和鱼。"),
    "japanese": ("私は猫が好きです。", "私は犬が好きです。"),
    "thai": ("ฉันชอบแมวและสุนัข", "ฉันชอบแมวและปลา"),
    "arabic": ("القطة تنام في البيت الكبير", "القطة تنام في البيت الصغير"),
    "hindi": ("बिल्ली घर में सोती है", "बिल्ली घर में खेलती है"),
    "korean": ("고양이가 집에서 잠을 잔다", "고양이가 집에서 밥을 먹는다"),
    "emoji": ("😀 🎉 ❤️ 🐱", "😀 🎉 ❤️ 🐶"),
}


def slow_bleu_char(original, counterfactual):
    """BLEU over characters by taking each n-gram of the candidate out of a list of the reference's."""
    product = Fraction(1)
    for order in range(1, 5):
        left = [original[i : i + order] for i in range(max(0, len(original) - order + 1))]
        mine = [counterfactual[i : i + order] for i in range(max(0, len(counterfactual) - order + 1))]
        hits = 0
        for gram in mine:
            if gram in left:
                left.remove(gram)
                hits += 1
        product *= Fraction(hits, len(mine)) if mine else 0
    if not product:
        return 0.0
    shortfall = max(0.0, len(original) / len(counterfactual) - 1)
    return math.exp(-shortfall) * float(product) ** 0.25


def slow_common(a, b):
    """Length of the longest common subsequence by recursion."""

    @functools.cache
    def common(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    return common(0, 0)


class TestNames:
    def test_names_and_their_order_are_those_of_records(self):
        assert list(METRICS) == [
            *("bleu", "bleu_char", "rouge_l_precision", "rouge_l_recall", "rouge_l_f1", "sentence_bert"),
            *("pr", "kl", "kl_chosen", "log_likelihood", "sufficiency"),
        ]
        assert all(metric.name == name and metric.title and metric.summary for name, metric in METRICS.items())

    def test_only_divergences_and_sufficiency_rise_with_faithfulness(self):
        assert {name for name, metric in METRICS.items() if metric.better == "higher"} == {
            *("kl", "kl_chosen", "sufficiency")
        }
        assert {name for name, metric in METRICS.items() if metric.better == "lower"} == METRICS.keys() - {
            *("kl", "kl_chosen", "sufficiency")
        }

    def test_text_metrics_are_the_single_functions(self):
        original, counterfactual = TEXTS["english"]
        found = metrics.text_metrics(original, counterfactual)
        assert found == {
            "bleu": metrics.bleu(original, counterfactual),
            "bleu_char": metrics.bleu_char(original, counterfactual),
            **dict(
                zip(
                    ("rouge_l_precision", "rouge_l_recall", "rouge_l_f1"),
                    metrics.rouge_l(original, counterfactual),
                    strict=True,
                )
            ),
        }

    def test_importing_the_metrics_is_light(self):
        heavy = {"torch", "sacrebleu", "rouge_score", "nltk"}
        script = f"import sys, jopa.evaluation.metrics; print(sorted({heavy!r} & {{*sys.modules}}))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "[]"

    @pytest.mark.parametrize(
        ("module", "loader", "call"),
        [
            ("sacrebleu.metrics.bleu", "_bleu_scorer", metrics.bleu),
            ("sacrebleu.metrics.bleu", "_bleu_scorer", metrics.bleu_char),
            ("rouge_score.rouge_scorer", "_rouge_scorer", metrics.rouge_l),
        ],
    )
    def test_a_missing_package_is_named(self, monkeypatch, module, loader, call):
        monkeypatch.setitem(sys.modules, module, None)
        getattr(metrics, loader).cache_clear()
        with pytest.raises(SettingError, match=r'pip install "jopa\[metrics\]"'):
            call("a", "a")


class TestBleu:
    def test_by_hand(self):
        # 5/6 words, 3/5 pairs, 2/4 triples, 1/3 fours; same length.
        found = metrics.bleu("the cat sat on the mat", "the cat sat on a mat")
        assert found == pytest.approx((1 / 12) ** 0.25, abs=1e-12)

    def test_an_order_without_a_match_counts_half_a_match_and_orders_too_long_do_not_count(self):
        # 2/3 words, 1/2 pairs, 0/1 triples smoothed to 1/2; no fours in three words.
        assert metrics.bleu("one two three", "one two four") == pytest.approx((1 / 6) ** (1 / 3), abs=1e-12)

    def test_a_shorter_candidate_pays_for_brevity_and_a_longer_one_by_precision(self):
        six, four = "one two three four five six", "one two three four"
        assert metrics.bleu(six, four) == pytest.approx(math.exp(1 - 6 / 4), abs=1e-12)
        assert metrics.bleu(four, six) == pytest.approx((4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, abs=1e-12)

    def test_it_is_what_sacrebleu_gives(self):
        import sacrebleu

        rng = random.Random(0)
        words = "The the price of good , bread. rises (falls) 3.5 don't it's &amp; A".split(" ")
        for _ in range(200):
            original = " ".join(rng.choices(words, k=rng.randint(1, 12)))
            counterfactual = " ".join(rng.choices(words, k=rng.randint(1, 12)))
            expected = sacrebleu.sentence_bleu(counterfactual, [original]).score / 100
            assert metrics.bleu(original, counterfactual) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(("original", "counterfactual", "expected"), [
        ("", "", 1), ("", "word", 0), ("word", "", 0), (" \n", "", 1), ("word", "word", 1), ("word", "other", 0),
        ("one two", "three four", 0),
    ])  # fmt: skip
    def test_empty_and_short_texts(self, original, counterfactual, expected):
        assert metrics.bleu(original, counterfactual) == expected

    def test_characters_are_words_where_a_script_has_no_blanks(self):
        # The fourth of seven is another: 6/7 characters, 4/6 pairs, 2/5 triples, 0/4 fours smoothed to half of one.
        found = metrics.bleu("我喜欢猫和狗。", "我喜欢鱼和狗。")
        assert found == pytest.approx((6 / 7 * 4 / 6 * 2 / 5 * 0.5 / 4) ** 0.25, abs=1e-12)


class TestBleuOverCharacters:
    def test_by_hand(self):
        # "abcde" → "abcdx": 4/5 characters, 3/4 pairs, 2/3 triples, 1/2 fours.
        assert metrics.bleu_char("abcde", "abcdx") == pytest.approx(0.2**0.25, abs=1e-12)

    def test_blanks_line_breaks_and_case_count(self):
        assert metrics.bleu_char("ab cd ef", "abcdef") == 0  # no triple without a blank is shared
        # "abcd\nef": 6/7, 4/6, 2/5 ("abc", "bcd"), 1/4 ("abcd") shared with "abcd ef".
        expected = (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
        assert metrics.bleu_char("abcd ef", "abcd\nef") == pytest.approx(expected, abs=1e-12)
        assert metrics.bleu_char("abcdef", "ABCDEF") == 0

    @given(st.text("ab c", max_size=14), st.text("ab c", max_size=14))
    @settings(max_examples=300, deadline=None)
    def test_it_is_the_slow_count_and_nltk(self, original, counterfactual):
        from nltk.translate.bleu_score import sentence_bleu

        found = metrics.bleu_char(original, counterfactual)
        if original == counterfactual:
            assert found == 1
            return
        assert found == pytest.approx(slow_bleu_char(original, counterfactual), abs=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert found == pytest.approx(sentence_bleu([original], counterfactual), abs=1e-12)

    @pytest.mark.parametrize("script", TEXTS)
    def test_it_is_nltk_on_every_script(self, script):
        from nltk.translate.bleu_score import sentence_bleu

        found = metrics.bleu_char(*TEXTS[script])
        assert found == pytest.approx(slow_bleu_char(*TEXTS[script]), abs=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert found == pytest.approx(sentence_bleu([TEXTS[script][0]], TEXTS[script][1]), abs=1e-12)

    @pytest.mark.parametrize(("original", "counterfactual", "expected"), [
        ("", "", 1), ("", "abcd", 0), ("abcd", "", 0), ("abc", "abc", 1), ("abc", "ab", 0), ("abcd", "wxyz", 0),
    ])  # fmt: skip
    def test_empty_and_short_texts(self, original, counterfactual, expected):
        assert metrics.bleu_char(original, counterfactual) == expected


class TestRougeL:
    def test_by_hand(self):
        # "a c" is the longest common subsequence: 2 of 3 new words, 2 of 6 original ones.
        assert metrics.rouge_l("a b c d e f", "a c x") == pytest.approx((2 / 3, 1 / 3, 4 / 9), abs=1e-12)

    def test_it_is_rouge_score_on_english(self):
        from rouge_score.rouge_scorer import RougeScorer

        rng = random.Random(1)
        words = "The the price_of good, bread. Rises (falls) 3.5 don't it's 'A' B2B semi-final\n ... -- x".split(" ")
        scorer = RougeScorer(["rougeL"])
        for _ in range(200):
            original = " ".join(rng.choices(words, k=rng.randint(1, 12)))
            counterfactual = " ".join(rng.choices(words, k=rng.randint(1, 12)))
            score = scorer.score(original, counterfactual)["rougeL"]
            if metrics.rouge_words(original) or metrics.rouge_words(counterfactual):
                assert metrics.rouge_l(original, counterfactual) == (score.precision, score.recall, score.fmeasure)

    @given(st.text(st.characters(max_codepoint=127)))
    @settings(max_examples=300, deadline=None)
    def test_words_of_ascii_text_are_those_of_rouge_score(self, text):
        from rouge_score.tokenize import tokenize

        assert metrics.rouge_words(text) == tokenize(text, None)

    @given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
    @settings(max_examples=200, deadline=None)
    def test_it_is_the_slow_recursion(self, a, b):
        precision, recall, f1 = metrics.rouge_l(" ".join(a), " ".join(b))
        if not a or not b:
            assert precision == recall == f1 == (1 if a == b else 0)
            return
        common = slow_common(tuple(a), tuple(b))
        assert (precision, recall) == pytest.approx((common / len(b), common / len(a)), abs=1e-12)
        assert f1 == pytest.approx(2 * common / (len(a) + len(b)), abs=1e-12)

    @pytest.mark.parametrize(("script", "expected"), [
        ("russian", (3 / 4, 3 / 5)), ("chinese", (5 / 6, 5 / 6)), ("japanese", (7 / 8, 7 / 8)),
        ("arabic", (4 / 5, 4 / 5)), ("hindi", (4 / 5, 4 / 5)), ("korean", (2 / 4, 2 / 4)), ("emoji", (3 / 4, 3 / 4)),
    ])  # fmt: skip
    def test_scripts_other_than_latin(self, script, expected):
        precision, recall, _ = metrics.rouge_l(*TEXTS[script])
        assert (precision, recall) == pytest.approx(expected, abs=1e-12)

    def test_words(self):
        assert metrics.rouge_words("Don’t PANIC: crème_brûlée №1 — 42 ©") == [
            *("don", "t", "panic", "crème", "brûlée", "1", "42"),
        ]
        assert metrics.rouge_words("cre\u0300me") == metrics.rouge_words("crème") == ["crème"]
        assert metrics.rouge_words("GPT模型好abc") == ["gpt", "模", "型", "好", "abc"]
        assert metrics.rouge_words("ok👍🏽 ❤️!") == ["ok", "👍", "🏽", "❤️"]
        assert metrics.rouge_words("बिल्ली") == ["बिल्ली"]

    @pytest.mark.parametrize(("original", "counterfactual", "expected"), [
        ("", "", 1), ("", "word", 0), ("word", "", 0), ("word", "Word!", 1), ("word", "other", 0), ("...", "!", 1),
        ("...", "word", 0),
    ])  # fmt: skip
    def test_empty_and_short_texts(self, original, counterfactual, expected):
        assert metrics.rouge_l(original, counterfactual) == (expected, expected, expected)


@given(st.text(max_size=40), st.text(max_size=40))
@example("<skipped>", "")
@example("&quot;", '"')
@example("\x00", "\u2028")
@settings(max_examples=300, deadline=None)
def test_every_text_metric_is_in_range_for_any_text(original, counterfactual):
    for first, second in ((original, counterfactual), (original, original + counterfactual)):
        found = metrics.text_metrics(first, second)
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in found.values()), found
    assert set(metrics.text_metrics(original, original).values()) == {1.0}


@pytest.mark.parametrize("script", TEXTS)
def test_every_text_metric_sees_what_two_texts_of_any_script_share(script):
    found = metrics.text_metrics(*TEXTS[script])
    assert all(0 < value < 1 for value in found.values()), found


class TestProbabilities:
    def test_probability_ratio_by_hand(self):
        # Both tokens fall from 1/2 to 1/8; then from 1/2 and 1/8 to 1/4 and 1/64.
        assert metrics.probability_ratio(2 * math.log(1 / 2), 2 * math.log(1 / 8), 2) == pytest.approx(1 / 4)
        assert metrics.probability_ratio(math.log(1 / 16), math.log(1 / 256), 2) == pytest.approx(1 / 4)
        assert metrics.probability_ratio(-3.0, -3.0, 7) == 1
        assert metrics.probability_ratio(-3.0, -1.0, 2) == pytest.approx(math.e)

    def test_probability_ratio_at_its_ends(self):
        assert metrics.probability_ratio(-3.0, -math.inf, 2) == 0
        assert metrics.probability_ratio(-3000.0, 0.0, 1) == math.inf
        with pytest.raises(SettingError, match="at least 1 target token, got 0"):
            metrics.probability_ratio(-1.0, -2.0, 0)
        with pytest.raises(ScoringError):
            metrics.probability_ratio(-math.inf, -math.inf, 2)

    def test_log_likelihood_is_the_sum(self):
        assert metrics.log_likelihood([-1.5, -0.25, -4.0]) == -5.75
        assert metrics.log_likelihood(torch.tensor([-1.5, -0.25, -4.0])) == -5.75
        assert metrics.log_likelihood([-1.0, -math.inf]) == -math.inf
        with pytest.raises(ScoringError):
            metrics.log_likelihood([math.nan])
        with pytest.raises(SettingError):
            metrics.log_likelihood([])


class TestDivergence:
    def test_by_hand_and_averaged_over_positions(self):
        removed = torch.tensor([[1 / 2, 1 / 2], [1 / 3, 2 / 3]], dtype=torch.float64).log()
        whole = torch.tensor([[1 / 4, 3 / 4], [1 / 3, 2 / 3]], dtype=torch.float64).log()
        first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
        assert metrics.kl(removed, whole) == pytest.approx(first / 2, abs=1e-14)
        other = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)  # the direction matters
        assert metrics.kl(whole, removed) == pytest.approx(other / 2, abs=1e-14)
        assert abs(first - other) > 0.01

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_is_a_plain_sum_over_the_vocabulary(self, dtype):
        generator = torch.Generator().manual_seed(0)
        logits = 4 * torch.randn(2, 3, 5000, generator=generator, dtype=dtype)
        removed, whole = torch.log_softmax(logits, dim=-1)
        expected = [
            math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
            for p, q in zip(removed.tolist(), whole.tolist(), strict=True)
        ]
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        assert metrics.kl(removed, whole) == pytest.approx(math.fsum(expected) / 3, rel=tolerance)
        library = torch.nn.functional.kl_div(whole.double(), removed.double(), log_target=True, reduction="sum") / 3
        assert metrics.kl(removed, whole) == pytest.approx(float(library), rel=tolerance)

    def test_rounding_never_makes_it_negative(self):
        logits = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(1))
        whole = torch.log_softmax(logits, dim=-1)
        assert metrics.kl(whole.bfloat16(), whole.bfloat16()) == 0
        assert 0 <= metrics.kl(torch.log_softmax(logits + 1e-6, dim=-1), whole) < 1e-9

    def test_impossible_tokens(self):
        never = -math.inf
        half = math.log(0.5)
        assert metrics.kl(torch.tensor([[half, half, never]]), torch.tensor([[half, half, never]])) == 0
        # Only possible under the whole prompt: adds nothing.
        found = metrics.kl(torch.tensor([[0.0, never]]), torch.tensor([[half, half]]))
        assert found == pytest.approx(math.log(2), abs=1e-7)
        assert metrics.kl(torch.tensor([[half, half]]), torch.tensor([[0.0, never]])) == math.inf
        # A probability that float64 cannot hold, against none at all.
        assert metrics.kl(torch.tensor([[0.0, -800.0]]), torch.tensor([[0.0, never]])) == 0

    def test_what_is_no_distribution_is_refused(self):
        good = torch.zeros(2, 3)
        for bad in (torch.full((2, 3), math.nan), torch.full((2, 3), -math.inf)):
            with pytest.raises(ScoringError, match="metric 'kl'"):
                metrics.kl(bad, good)
            with pytest.raises(ScoringError, match="metric 'kl'"):
                metrics.kl(good, bad)
        unchecked = inspect.unwrap(metrics.kl)  # as users have it: shapes are enforced under pytest alone
        for other in (torch.zeros(3, 3), torch.zeros(2, 4)):
            with pytest.raises(SettingError, match="same shape"):
                unchecked(good, other)
        with pytest.raises(SettingError, match="same shape"):
            metrics.kl(torch.zeros(0, 3), torch.zeros(0, 3))

    def test_chosen_by_hand(self):
        # (1/2, 1/4) and (1/10, 1/10), each divided by its sum: (2/3, 1/3) and (1/2, 1/2).
        whole, removed = [math.log(1 / 2), math.log(1 / 4)], [math.log(1 / 10)] * 2
        expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
        assert metrics.kl_chosen(whole, removed) == pytest.approx(expected, abs=1e-14)
        assert metrics.kl_chosen(removed, whole) == pytest.approx(0.5 * math.log(9 / 8), abs=1e-14)

    def test_chosen_is_scipys_entropy(self):
        from scipy.stats import entropy

        rng = random.Random(2)
        for length in (1, 2, 50):
            whole, removed = ([-rng.expovariate(0.5) for _ in range(length)] for _ in range(2))
            expected = entropy([math.exp(a) for a in whole], [math.exp(b) for b in removed])
            assert metrics.kl_chosen(whole, removed) == pytest.approx(expected, abs=1e-12)
            single = torch.tensor(whole), torch.tensor(removed)
            assert metrics.kl_chosen(*single) == pytest.approx(expected, abs=1e-5)

    def test_chosen_does_not_see_a_loss_that_all_tokens_share_nor_underflow(self):
        assert metrics.kl_chosen([-1.0, -2.0], [-4.0, -5.0]) == pytest.approx(0, abs=1e-15)
        found = metrics.kl_chosen([-2000.0, -2000.0], [-3000.0, -3000.0 + math.log(3)])
        assert found == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-12)

    def test_chosen_refuses_what_does_not_fit(self):
        with pytest.raises(SettingError, match="got 1 and 2 of them"):
            metrics.kl_chosen([-1.0], [-1.0, -2.0])
        with pytest.raises(SettingError):
            metrics.kl_chosen([], [])
        with pytest.raises(ScoringError, match="kl_chosen"):
            metrics.kl_chosen([-1.0, math.nan], [-1.0, -2.0])
        assert metrics.kl_chosen([-1.0, -1.0], [-1.0, -math.inf]) == math.inf
