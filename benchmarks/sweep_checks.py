"""What the sweep requires of a model: every score is that of a plain forward, every answer that of a plain loop.

Three removals, with and without a template before the prompt, in batches and alone, with and without caches, the
default search, Algorithm 1, and greedy generation.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jopa
from jopa.choices import REMOVALS
from jopa.scoring.probe import probe_of
from jopa.scoring.slow_paths import SLOW_PATHS

TOLERANCE = 1e-4
"""The most difference from a plain forward, in nats a token."""
TEXT = "write a story about the doctor and his patient who met in rain"
SYSTEM = "please tell me what you think of green birds today"
WORDS = f"{TEXT} {SYSTEM} once upon time there was".split()
VOCABULARY = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", "<u>", "<a>", *WORDS]))}
ANSWER = tuple(VOCABULARY[word] for word in ["once", "upon", "time", "there", "was"])
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"batch_size": 1}, {"reuse_prefix": False})
SETS: tuple[tuple[int, ...], ...] = ((), (0,), (12,), (2, 5), (2, 6), (1, 2, 3, 9))
SHORT = jopa.SearchOptions(counterfactual=jopa.Generation(3))
N_NEW = 6
"""Tokens of each answer."""
_KEYS = {line: key for key, line in SLOW_PATHS.items()}


class WrongNumberError(Exception):
    """A score is not that of a plain forward, or an answer not that of a plain loop."""


def tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """One token a word."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    if chat:
        fast.chat_template = (
            "<s>{% for m in messages %} <u> {{ m['content'] }} {% endfor %}"
            "{% if add_generation_prompt %} <a>{% endif %}"
        )
    return fast


def check(model: jopa.LanguageModel, slow: dict[str, None], refused: dict[str, None]) -> None:
    """Compare everything with plain forwards.

    Args:
        model: the model.
        slow: gets the fast paths that were switched off, by their keys in `SLOW_PATHS`.
        refused: gets what was refused, a line each.

    Raises:
        WrongNumberError: something is wrong.
    """
    plain = PlainScores(model)
    keep = torch.ones(len(SETS), len(plain.prompt.units), dtype=torch.bool)
    for row, removed in enumerate(SETS):
        keep[row, list(removed)] = False
    for removal in REMOVALS:
        try:
            scorers = [
                (f"{removal} {settings}", jopa.ModelScorer(model, plain.prompt, plain.output, removal, **settings))
                for settings in SETTINGS
            ]
        except jopa.SettingError as error:
            if f"removal '{removal}' cannot be done" not in str(error):
                raise
            refused[f"removal {removal} refused"] = None
            continue
        for what, scorer in scorers:
            for scores, sets in [(scorer.log_probs(keep), SETS)] + [
                (scorer.log_probs(keep[[row]]), SETS[row : row + 1]) for row in range(len(SETS))
            ]:
                for own, removed in zip(scores, sets, strict=True):
                    plain.require(f"{what} {len(sets)} at once", removal, removed, own)
        for method in ("joint", "jopa"):
            _explain(plain, removal, method, slow, refused)
    _generate(plain)


def _explain(plain: PlainScores, removal: str, method: str, slow: dict[str, None], refused: dict[str, None]) -> None:
    """The scores that a method reports for the set that it chose."""
    model = plain.model
    try:
        found = jopa.explain(TEXT, model=model, method=method, removal=removal, k=2, output=plain.output, search=SHORT)
    except jopa.JopaError as error:
        if method != "jopa" or "gradient" not in str(error):
            raise
        refused["method jopa refused: no gradients"] = None
        return
    for line in (found.details or {}).get("slow_paths", ()):
        slow[_KEYS.get(line) or line] = None
    without = PlainScores(model, system=False)
    for what, removed, own in (
        ("log_prob", (), found.log_prob),
        ("log_prob_removed", tuple(found.removed), found.log_prob_removed),
    ):
        without.require(f"{what} of {method}, {removal}", removal, removed, torch.tensor(own), total=True)


def _generate(plain: PlainScores) -> None:
    """Answers alone and in a batch."""
    model = plain.model
    prompts = [list(plain.prompt.ids), list(plain.prompt.ids[:-4]), list(plain.prompt.ids[3:])]
    expected = [_plain_loop(model, ids) for ids in prompts]
    inputs = [{"input_ids": torch.tensor([ids])} for ids in prompts]
    alone = [model.generate(row, max_new_tokens=N_NEW) for row in inputs]
    if alone != expected:
        raise WrongNumberError(f"generated {alone}, a plain loop {expected}")
    together = model.generate_batch(inputs, max_new_tokens=N_NEW)
    if together != expected:
        raise WrongNumberError(f"generated {together} in a batch, a plain loop {expected}")


def _plain_loop(model: jopa.LanguageModel, prompt: list[int]) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(N_NEW):
        model.length_dependence.restore()
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        if int(logits.argmax()) in model.stop_ids:
            break
        ids.append(int(logits.argmax()))
    return tuple(ids[len(prompt) :])


class PlainScores:
    """Log-probabilities of the answer by plain forwards, each made once.

    Args:
        model: the model.
        system: put a template with a system message before the prompt, where the tokenizer has one.
    """

    def __init__(self, model: jopa.LanguageModel, *, system: bool = True) -> None:
        self.model = model
        chat = model.tokenizer.chat_template is not None
        self.prompt = jopa.build_prompt(model.tokenizer, TEXT, system=SYSTEM if chat and system else None)
        self.output = jopa.Output(ANSWER, model.decode(ANSWER), (0, len(ANSWER)))
        self._known: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    def require(
        self, what: str, removal: str, removed: tuple[int, ...], scores: torch.Tensor, *, total: bool = False
    ) -> None:
        """Require the scores (or their sum) of one plain forward.

        Raises:
            WrongNumberError: they are others.
        """
        key = removal, removed
        if key not in self._known:
            self._known[key] = self._plain(removal, removed)
        expected = self._known[key].sum() if total else self._known[key]
        difference = float((scores - expected).abs().max())
        share = max(1.0, float(self._known[key].abs().max()) / 20) * (len(ANSWER) if total else 1)
        if not difference < TOLERANCE * share:
            raise WrongNumberError(f"{what} without {removed} is {difference:.2g} nats off")

    def _plain(self, removal: str, removed: tuple[int, ...]) -> torch.Tensor:
        """log p of each output token by one plain forward."""
        gone = [position for i in removed for position in self.prompt.units[i].positions]
        ids = torch.tensor([[*self.prompt.ids, *self.output.ids]])
        start = len(self.prompt.ids)
        arguments: dict[str, Any] = {"input_ids": ids}
        if removal == "delete":
            arguments = {"input_ids": ids[:, [i for i in range(ids.shape[1]) if i not in gone]]}
            start -= len(gone)
        elif removal == "zero" and gone:
            embeddings = self.model.model.get_input_embeddings()(ids).clone()
            embeddings[0, gone] = 0.0
            arguments = {"inputs_embeds": embeddings}
        elif removal == "hide" and gone:
            arguments["attention_mask"] = torch.ones_like(ids)
            arguments["attention_mask"][0, gone] = 0
            if probe_of(self.model).options.positions:
                arguments["position_ids"] = torch.arange(ids.shape[1])[None]
        self.model.length_dependence.restore()
        with torch.no_grad():
            logits = self.model.model(**arguments, use_cache=False).logits[0].float()
        rows = torch.arange(start - 1, start - 1 + len(self.output.ids))
        return logits.log_softmax(-1)[rows, list(self.output.ids)]
