"""Captum on its own terms, and ReAGent, on tiny random models."""

import math
import sys
import warnings

import pytest
import torch
from captum.attr import FeatureAblation, LLMAttribution, TextTemplateInput
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, LlamaConfig, PreTrainedTokenizerFast

import jopa
import small_tokenizers
import tiny_models
from jopa.methods.peers import Captum, ReAGent
from jopa.methods.perturbation import Ablation, Random
from table_scorer import TableScorer, redundant_pair

TEXT = "write a story about the doctor and his patient"
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())


def on_model(model, *, removal="delete", unit="token", target=None, text=TEXT, answer=ANSWER, scorer=jopa.ModelScorer):
    prompt = jopa.build_prompt(model.tokenizer, text, unit=unit)
    output = jopa.Output(answer, model.decode(answer), target or (0, len(answer)))
    return jopa.Problem(scorer(model, prompt, output, removal))


def byte_level_model():
    tokenizer = small_tokenizers.small_tokenizer("byte-level")
    config = LlamaConfig(**{**tiny_models.SHAPE, "vocab_size": len(tokenizer)})
    return jopa.LanguageModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "tiny-bytes")


# --- Captum


@pytest.mark.parametrize("in_tokens", [False, True])
def test_ablation_equals_captum_called_by_hand(tiny, in_tokens):
    """Captum takes the words out of the rendered text and tokenises what is left; no code of jopa's is involved."""
    words = TEXT.split()
    message = [{"role": "user", "content": " ".join("{}" for _ in words)}]
    template = tiny.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    captum = LLMAttribution(FeatureAblation(tiny.model), tiny.tokenizer)
    result = captum.attribute(
        TextTemplateInput(template, words),
        target=torch.tensor(ANSWER),
        use_cached_outputs=False,
        forward_in_tokens=in_tokens,
    )
    assert Ablation().rank(on_model(tiny)).scores == pytest.approx(result.seq_attr.tolist(), abs=1e-3)


@pytest.mark.parametrize("token_by_token", [False, True])
@pytest.mark.parametrize("target", [(0, 7), (2, 5)])
def test_captum_equals_ablation(tiny, token_by_token, target):
    ours = Ablation().rank(on_model(tiny, target=target)).scores
    theirs = Captum(token_by_token).rank(on_model(tiny, target=target)).scores
    assert theirs == pytest.approx(ours, abs=1e-3)
    assert max(ours) - min(ours) > 0.1  # not a comparison of zeros


@pytest.mark.parametrize("chat", [False, True])
def test_captum_with_units_of_several_tokens(chat):
    model = tiny_models.language_model("llama", chat=chat)
    spans = [(0, 13), (20, 30), (31, 46)]
    ours, theirs = (method.rank(on_model(model, unit=spans)).scores for method in (Ablation(), Captum()))
    assert theirs == pytest.approx(ours, abs=1e-3)


def test_captum_forwards_are_counted(llama):
    question = on_model(llama, target=(0, 5))
    n_prompt, n_units = len(question.scorer.prompt.ids), question.n_units
    full = n_prompt + len(ANSWER)
    removed = n_units * (n_prompt - 1)  # every unit is one token
    details = Captum().rank(question).details
    assert details["captum_forwards"] == 1 + n_units
    assert details["captum_ffe"] == pytest.approx((n_prompt + removed + (1 + n_units) * 5) / full)
    assert question.ffe == details["captum_ffe"]
    details = Captum(token_by_token=True).rank(question).details
    assert details["captum_forwards"] == 5 * (1 + n_units)
    assert details["captum_ffe"] == pytest.approx(
        (5 * (n_prompt + removed) + (1 + n_units) * (0 + 1 + 2 + 3 + 4)) / full
    )


def test_captum_tells_progress_and_leaves_the_model_as_it_came():
    told = []
    model = tiny_models.language_model("gpt2")  # the one with dropout
    question = on_model(model)
    question.progress = lambda done, total: told.append((done, total))
    model.model.train()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ranking = Captum().rank(question)
        assert all(module.training for module in model.model.modules())
    finally:
        model.model.eval()
    assert told == [(done, 10) for done in range(1, 11)]
    assert not model.model.get_input_embeddings()._forward_hooks
    assert ranking.scores == pytest.approx(Ablation().rank(on_model(model)).scores, abs=1e-3)


def test_captum_explains_an_output_that_ends_inside_a_character():
    """Captum's own labels of output tokens fail there: for them it tokenises the decoded output again."""
    model = byte_level_model()
    answer = model.encode_continuation("hello \N{PARROT}")
    assert model.decode(answer[:-1]) not in model.decode(answer)
    ours, theirs = (m.rank(on_model(model, text="Write a story", answer=answer[:-1])) for m in (Ablation(), Captum()))
    assert theirs.scores == pytest.approx(ours.scores, abs=1e-3)


@pytest.mark.parametrize("removal", ["zero", "hide"])
def test_captum_refuses_what_it_cannot_remove_before_any_work(llama, removal):
    question = on_model(llama, removal=removal)
    with pytest.raises(jopa.SettingError, match=f"method 'captum' can only delete units, got removal '{removal}'"):
        Captum().run(question, 2)
    assert question.ffe == 0


def test_captum_refuses_a_prompt_that_cannot_be_emptied():
    model = tiny_models.language_model("llama", chat=False)
    with pytest.raises(jopa.PromptError, match="nothing is left to predict the output from"):
        Captum().run(on_model(model, text="write"), 1)


def test_a_missing_captum_names_the_extra_that_brings_it(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(jopa.SettingError, match=r"needs the package captum: pip install 'jopa\[baselines\]'"):
        Captum().run(on_model(llama), 2)


@pytest.mark.parametrize("method", [Captum(), ReAGent()], ids=lambda method: method.name)
def test_a_scorer_without_a_model_is_refused_before_any_work(method):
    scorer = TableScorer(8, redundant_pair)
    with pytest.raises(
        jopa.SettingError, match=f"method '{method.name}' needs the model itself, which this model or scorer"
    ):
        method.run(jopa.Problem(scorer), 2)
    assert scorer.asked == []


# --- ReAGent


class Planted(jopa.ModelScorer):
    """Remembers the replaced prompts; each changed unit of `effects` lowers every target token's log-probability."""

    effects: dict = {4: 2.0, 7: 0.1}  # noqa: RUF012
    base = -0.1

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.rows = []

    def log_probs(self, keep):
        assert keep.all()
        return torch.full((len(keep), len(ANSWER)), self.base)

    def changed(self, ids):
        return [
            {i for i, unit in enumerate(self.prompt.units) if any(row[p] != self.prompt.ids[p] for p in unit.positions)}
            for row in ids.tolist()
        ]

    def replaced_log_probs(self, ids):
        self.rows.append(ids)
        totals = [self.base - sum(self.effects.get(unit, 0.0) for unit in units) for units in self.changed(ids)]
        return torch.tensor(totals)[:, None].expand(-1, len(ANSWER))


def test_reagent_finds_a_planted_unit_whatever_the_seed(llama):
    for seed in range(5):
        selection = ReAGent().run(on_model(llama, scorer=Planted), 2, seed=seed)
        assert selection.removed[0] == 4
        assert sum(selection.scores) == pytest.approx(1) and min(selection.scores) >= 0


def test_reagent_finds_the_unit_that_dominates_a_model(llama):
    question = on_model(llama)
    answer = llama.generate({"input_ids": torch.tensor([question.scorer.prompt.ids])}, max_new_tokens=1)
    question = on_model(llama, answer=answer)
    *_, second, first = sorted(Ablation().rank(question).scores)
    (dominant,) = Ablation().run(question, 1).removed
    assert first > 2 * second
    method = ReAGent(steps=30, recovered=100.0)
    assert [method.run(question, 1, seed=seed).removed for seed in range(2)] == [(dominant,)] * 2
    assert [Random().run(question, 1, seed=seed).removed for seed in range(20)].count((dominant,)) < 10


def test_reagent_is_seeded_and_its_ranking_knows_no_removal(llama):
    def rank(seed, removal="delete"):
        return ReAGent(steps=5).rank(on_model(llama, removal=removal), seed=seed)

    assert rank(1) == rank(1)
    assert rank(1) != rank(2)
    assert rank(1).scores == pytest.approx(rank(1, "zero").scores, abs=1e-4)


def test_reagent_replaces_a_share_of_the_units_by_ordinary_tokens_and_nothing_else(llama):
    question = on_model(llama, scorer=Planted, unit=[(0, 5), (6, 13), (14, 23), (24, 34), (35, 46)])
    scorer = question.scorer
    ReAGent(ratio=0.4, kept=0.2, steps=30, recovered=100.0).rank(question)
    rows = torch.cat(scorer.rows)
    in_units = [position for unit in scorer.prompt.units for position in unit.positions]
    template = [position for position in range(rows.shape[1]) if position not in in_units]
    assert (rows[:, template] == torch.tensor(scorer.prompt.ids)[template]).all()
    assert len(scorer.rows) == 60
    n_changed = [max(map(len, scorer.changed(ids))) for ids in scorer.rows]
    assert n_changed[::2] == [2] * 30 and n_changed[1::2] == [4] * 30  # at times a token is drawn for itself
    drawn = rows[rows != torch.tensor(scorer.prompt.ids)]
    assert set(drawn.tolist()) == set(range(6, len(tiny_models.VOCABULARY)))  # the first six are special
    units_changed = {unit for ids in scorer.rows[::2] for units in scorer.changed(ids) for unit in units}
    assert units_changed == set(range(5))


def test_reagent_updates_as_the_formula_says(llama):
    question = on_model(llama, scorer=Planted)
    ranking = ReAGent(steps=3, chains=1, recovered=100.0).rank(question, seed=13)
    scorer = question.scorer
    expected = torch.rand(1, 9, generator=torch.Generator().manual_seed(13), dtype=torch.double)[0]
    for ids in scorer.rows[::2]:
        (units,) = scorer.changed(ids)
        assert len(units) == 3  # no token was drawn for itself with this seed
        change = math.exp(scorer.base) - math.exp(float(scorer.replaced_log_probs(ids)[0, 0]))
        for unit in range(9):
            expected[unit] += math.log((1 + change) / (1 - change)) * (1 if unit in units else -1)
    assert ranking.scores == pytest.approx(expected.softmax(dim=0).tolist(), abs=1e-6)


def test_reagent_stops_a_chain_when_the_important_units_alone_recover_the_output(llama):
    told = []
    question = on_model(llama, scorer=Planted)
    question.progress = lambda done, total: told.append((done, total))
    ranking = ReAGent(steps=200).rank(question)
    updates = ranking.details["updates"]
    assert ranking.stop == "the output recovered in 5 of 5 chains, at most 200 steps each"
    assert 1 <= min(updates) <= max(updates) < 200
    assert told == [(step, 200) for step in range(1, max(updates) + 1)]
    scorer = question.scorer
    assert [len(ids) for ids in scorer.rows[::2]] == [len(ids) for ids in scorer.rows[1::2]]
    assert [len(ids) for ids in scorer.rows[::2]] == [sum(n >= s for n in updates) for s in range(1, max(updates) + 1)]


def test_reagent_asks_for_a_share_of_the_original_probability(llama):
    """Of one that no replacement changes, all recovers at once, however low it is."""

    class Unmoved(Planted):
        effects: dict = {}  # noqa: RUF012
        base = -2.0

    ranking = ReAGent(steps=4, recovered=1.0).rank(on_model(llama, scorer=Unmoved))
    assert ranking.details["updates"] == [1] * 5
    never = ReAGent(steps=4, recovered=100.0).rank(on_model(llama, scorer=Planted))
    assert never.details["updates"] == [4] * 5 and never.stop.startswith("the output recovered in 0 of 5 chains")


def test_reagent_work_is_counted(llama):
    question = on_model(llama)
    ReAGent(steps=2, chains=3, recovered=100.0).rank(question)
    full = len(question.scorer.prompt.ids) + len(ANSWER)
    assert question.evaluations == 1
    assert (2 * 2 * 3 + 1) * 0.7 < question.ffe < (2 * 2 * 3 + 1) + 2 / full


def test_reagent_on_a_prompt_of_one_unit(llama):
    assert ReAGent().run(on_model(llama, text="write"), 1).removed == (0,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"chains": -1}, "chains must be at least 1, got -1"),
        ({"ratio": 0.0}, "ratio must lie between 0 and 1, both excluded, got 0.0"),
        ({"kept": 1.0}, "kept must lie between 0 and 1, both excluded, got 1.0"),
        ({"recovered": 0.0}, "recovered must be above 0, got 0.0"),
        ({"recovered": math.nan}, "recovered must be above 0, got nan"),
    ],
)
def test_reagent_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(jopa.SettingError, match=message):
        ReAGent(**settings)


# --- ReAGent with a masked language model


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory):
    """A random BERT that strongly prefers three words everywhere, and one of them is in the prompt."""
    folder = tmp_path_factory.mktemp("masked")
    save_masked_lm(folder, mask_token="<mask>")
    return str(folder)


def save_masked_lm(folder, **special):
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<mask>", "##ing", *tiny_models.WORDS, "unheard"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **special)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **shape))
    model.cls.predictions.bias.data[[vocabulary[word] for word in FAVOURITES]] = 100.0
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


FAVOURITES = ["##ing", "<unk>", "birds", "green", "doctor"]


def test_a_masked_model_offers_its_own_likeliest_words(llama, masked_lm, monkeypatch):
    monkeypatch.setattr("jopa.methods.peers._PREDICTIONS", len(FAVOURITES) - 1)  # a special one is never asked
    question = on_model(llama, scorer=Planted)
    ReAGent(masked_lm=masked_lm, steps=20, recovered=100.0).rank(question)
    scorer = question.scorer
    assert all(len(units) == 3 for ids in scorer.rows[::2] for units in scorer.changed(ids))  # never by the same word
    rows = torch.cat(scorer.rows)
    birds, green, doctor = (tiny_models.VOCABULARY[word] for word in ("birds", "green", "doctor"))
    at_doctor = scorer.prompt.ids.index(doctor)
    drawn = rows[rows != torch.tensor(scorer.prompt.ids)]
    assert set(drawn.tolist()) == {birds, green, doctor}  # no word parts, no special tokens
    assert set(rows[:, at_doctor].tolist()) == {birds, green, doctor}


def test_a_masked_model_s_words_keep_the_blank_before_the_unit(masked_lm, monkeypatch):
    monkeypatch.setattr("jopa.methods.peers._PREDICTIONS", len(FAVOURITES) - 1)
    model = byte_level_model()
    question = on_model(model, scorer=Planted, text="Write a story", answer=(7,) * len(ANSWER))
    ReAGent(masked_lm=masked_lm, steps=8, recovered=100.0).rank(question)
    story = question.scorer.prompt.units[3]
    assert story.text == " story"
    drawn = {ids[story.positions[0]].item() for ids in torch.cat(question.scorer.rows)}
    assert drawn == {question.scorer.prompt.ids[-1], *model.encode_continuation(" doctor")}  # the only one of one token


def test_a_masked_model_reads_the_text_around_each_unit(monkeypatch):
    gaps = []

    def predictor(_name):
        return lambda before, after: gaps.append((before, after)) or []

    monkeypatch.setattr("jopa.methods.peers._masked_predictor", predictor)
    question = on_model(byte_level_model(), scorer=Planted, text=TEXT + " or not", answer=(7,) * len(ANSWER))
    ReAGent(masked_lm="any", steps=1).rank(question)
    units, text = question.scorer.prompt.units, question.scorer.prompt.text
    assert [before + unit.text.strip() + after for unit, (before, after) in zip(units, gaps, strict=True)] == (
        [text] * len(units)
    )


def test_words_of_another_length_give_way_to_drawn_tokens(llama, masked_lm, monkeypatch):
    monkeypatch.setattr("jopa.methods.peers._PREDICTIONS", len(FAVOURITES) - 1)  # a special one is never asked
    question = on_model(llama, scorer=Planted, unit=[(0, 13), (14, 23)])
    assert [len(unit.positions) for unit in question.scorer.prompt.units] == [3, 2]
    ReAGent(masked_lm=masked_lm, steps=20, ratio=0.5, kept=0.5, recovered=100.0).rank(question)
    rows = torch.cat(question.scorer.rows)
    assert len(set(rows[rows != torch.tensor(question.scorer.prompt.ids)].tolist())) > 10


def test_a_masked_model_is_seeded(llama, masked_lm):
    method = ReAGent(masked_lm=masked_lm, steps=3)
    assert method.rank(on_model(llama), seed=1) == method.rank(on_model(llama), seed=1)
    assert method.rank(on_model(llama), seed=1) != ReAGent(steps=3).rank(on_model(llama), seed=1)


def test_a_masked_model_that_is_not_there_or_is_none(llama, tmp_path):
    with pytest.raises(jopa.ModelError, match="cannot load the masked language model '/no/such/folder'"):
        ReAGent(masked_lm="/no/such/folder").rank(on_model(llama))
    save_masked_lm(tmp_path)
    with pytest.raises(jopa.ModelError, match="has no mask token; give a masked language model"):
        ReAGent(masked_lm=str(tmp_path)).rank(on_model(llama))
