"""Where the named data sets come from: ids on the hub, readers of their rows, control texts, filters.

A reader turns a row of the hub into the record that a JSONL file of the same set has. Sources and filters: section 5.1,
Appendix A.2 and Table 3 of the paper, and for the fixed instructions and the prefilled answer its published code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import isfunction
from typing import Any

from jopa.datasets.documents import agentdojo, hotpotqa, ruler_needle, tydiqa
from jopa.datasets.fields import SourceRow, optional_text, text_field
from jopa.errors import InputFileError, SettingError, reason_of
from jopa.plugins.registry import Registry

PREFILL = "Of course! I'd be happy to help you with that."
"""The beginning of the answer with which the paper's experiments start the assistant's message."""

_PARQUET = "refs/convert/parquet"
"""The branch where the hub keeps its own conversion of data sets whose repository holds a loading script."""

# The four AQuA exemplars of Wei et al. 2022 (arXiv 2201.11903), also printed in Wang et al. 2022 (arXiv 2203.11171,
# Table 14); text by way of langchain `chains/self_consistency/prompts/aqua_rat_prompt.py` (MIT licence).
AQUA_DEMONSTRATIONS = (
    "Q: John found that the average of 15 numbers is 40. "
    "If 10 is added to each number then the mean of the numbers is?\n"
    "Answer Choices: (a) 50 (b) 45 (c) 65 (d) 78 (e) 64\n"
    "A: If 10 is added to each number, then the mean of the numbers also increases by 10. So the new mean would be 50. "
    "The answer is (a).\n\n"
    "Q: If a / b = 3/4 and 8a + 5b = 22,then find the value of a.\n"
    "Answer Choices: (a) 1/2 (b) 3/2 (c) 5/2 (d) 4/2 (e) 7/2\n"
    "A: If a / b = 3/4, then b = 4a / 3. So 8a + 5(4a / 3) = 22. This simplifies to 8a + 20a / 3 = 22, which means "
    "44a / 3 = 22. So a is equal to 3/2. The answer is (b).\n\n"
    "Q: A person is traveling at 20 km/hr and reached his destiny in 2.5 hr then find the distance?\n"
    "Answer Choices: (a) 53 km (b) 55 km (c) 52 km (d) 60 km (e) 50 km\n"
    "A: The distance that the person traveled would have been 20 km/hr * 2.5 hrs = 50 km. The answer is (e).\n\n"
    "Q: How many keystrokes are needed to type the numbers from 1 to 500?\n"
    "Answer Choices: (a) 1156 (b) 1392 (c) 1480 (d) 1562 (e) 1788\n"
    "A: There are 9 one-digit numbers from 1 to 9. There are 90 two-digit numbers from 10 to 99. There are 401 "
    "three-digit numbers from 100 to 500. 9 + 90(2) + 401(3) = 1392. The answer is (b).\n\n"
)


@dataclass(frozen=True)
class Source:
    """Where a named data set comes from, how its rows are read, and the control texts around its prompts.

    A data set of another package gives `rows` and needs no hub.

    Attributes:
        name: what it is asked for by.
        summary: what it is, in a line.
        hub_id: its id on the Hugging Face hub.
        split: the rows of it that are read.
        from_hub: turns a row of the hub into a record of a JSONL file, without an id.
        config: its configuration on the hub, if it has several.
        words: the fewest and the most words of a prompt that is used.
        words_field: the field of a record that has the number of words that counts, where it has one.
        reference_field: the field of a record that has the reference.
        prefix: the fixed instruction, template.
        question_field: the field of a record that has a question; it follows the fixed instruction, template, too.
        prefill: the prefilled answer, template.
        questions: its records hold a question with choices instead of a prompt.
        rows: gives its records one by one, in place of the hub: mappings with `prompt` and perhaps `id`, `system`,
            `prefix`, `prefill` and `reference`, as lines of a JSONL file have them.
    """

    name: str
    summary: str
    hub_id: str = ""
    split: str = ""
    from_hub: Callable[[SourceRow], dict[str, Any]] = dict
    config: str | None = None
    words: tuple[int, int] | None = None
    words_field: str = ""
    reference_field: str = "reference"
    prefix: str | None = None
    question_field: str = ""
    prefill: str | None = None
    questions: bool = False
    rows: Callable[[], Iterable[SourceRow]] | None = None

    def __str__(self) -> str:
        if self.rows is not None:
            return f"{self.rows.__module__}:{self.rows.__qualname__}"
        return ", ".join(part for part in (self.hub_id, self.config, self.split) if part)


def load_from_hub(spec: Source) -> Any:
    """The `datasets.Dataset` of a named set.

    Raises:
        SettingError: the package `datasets` is not installed.
        InputFileError: the hub cannot be reached, or the data set or its split is not there.
    """
    try:
        import datasets as hub
    except ImportError as error:
        raise SettingError(
            f"the data set '{spec.name}' needs the package datasets: pip install \"jopa[bench]\", "
            f"or give your own copy: --data {spec.name}=path"
        ) from error
    try:
        try:
            return hub.load_dataset(spec.hub_id, spec.config, split=spec.split)
        except RuntimeError as error:
            if spec.config or "scripts are no longer supported" not in str(error):
                raise
            return hub.load_dataset(spec.hub_id, split=spec.split, revision=_PARQUET)
    except Exception as error:  # the library passes on whatever the network, the hub and the file formats raise
        raise InputFileError(
            f"cannot load '{spec}' from the hub ({reason_of(error):.200}); check the network, "
            f"or give your own copy as JSONL: --data {spec.name}=path"
        ) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _alpaca(row: SourceRow) -> dict[str, Any]:
    """Columns instruction, input, output; the model-written output is not read."""
    instruction = text_field(row, "instruction")
    prompt = f"{instruction} {optional_text(row, 'input') or ''}".strip()
    return {"prompt": prompt, "instruction_words": len(instruction.split())}


def _tldr_news(row: SourceRow) -> dict[str, Any]:
    """Columns headline, content, category; in the hub's later version title, text, section and others."""
    content, headline = ("text", "title") if "content" not in row and "text" in row else ("content", "headline")
    return {"prompt": _one_line(text_field(row, content)), "headline": optional_text(row, headline)}


def _mhc(row: SourceRow) -> dict[str, Any]:
    """Columns Context, Response: a question is repeated with each of its answers."""
    return {"prompt": _one_line(text_field(row, "Context"))}


def _counsel_chat(row: SourceRow) -> dict[str, Any]:
    """Columns questionText, topic and others about the answers and therapists, which are not read."""
    return {"prompt": _one_line(text_field(row, "questionText")), "topic": row.get("topic")}


def _aqua(row: SourceRow) -> dict[str, Any]:
    """Columns question, options, rationale, correct; the rationale is not read."""
    return {key: row.get(key) for key in ("question", "options", "correct")}


_FROM_DOCUMENTS = "Answer the question from the text that follows it."
_ADVICE = "Please generate advice or suggestions in response to the following mental health-related question."

_BUILTIN: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="alpaca",
            summary="instructions, some with an input",
            hub_id="yahma/alpaca-cleaned",
            split="train[:1500]",
            from_hub=_alpaca,
            words=(16, 39),
            words_field="instruction_words",
            prefix="You are a helpful, respectful and honest assistant. "
            "Please analyze the following context and answer the question.",
            prefill=PREFILL,
        ),
        Source(
            name="tldr_news",
            summary="items of a technology newsletter, to be given a headline",
            hub_id="JulesBelveze/tldr_news",
            split="train",
            from_hub=_tldr_news,
            words=(14, 138),
            reference_field="headline",
            prefix="Please generate a headline from the following piece of context.",
            prefill=PREFILL,
        ),
        Source(
            name="mhc",
            summary="questions to mental health counsellors",
            hub_id="Amod/mental_health_counseling_conversations",
            split="train",
            from_hub=_mhc,
            words=(18, 478),
            prefix=_ADVICE,
            prefill=PREFILL,
        ),
        Source(
            name="counsel_chat",
            summary="questions to mental health counsellors, of one of the platforms in mhc",
            hub_id="nbertagnolli/counsel-chat",
            split="train",
            from_hub=_counsel_chat,
            words=(18, 478),
            prefix=_ADVICE,
            prefill=PREFILL,
        ),
        Source(
            name="aqua",
            summary="algebra questions with choices after four worked demonstrations (few-shot chain of thought)",
            hub_id="deepmind/aqua_rat",
            config="raw",
            split="test",
            from_hub=_aqua,
            prefix=AQUA_DEMONSTRATIONS + "Q: ",
            prefill="\nA:",  # a line of its own also where no chat template parts it from the prompt
            questions=True,
        ),
        Source(
            name="hotpotqa",
            summary="questions about ten paragraphs of Wikipedia, two of which have the answer",
            hub_id="hotpotqa/hotpot_qa",
            config="distractor",
            split="validation",
            from_hub=hotpotqa,
            prefix=_FROM_DOCUMENTS,
            question_field="question",
        ),
        Source(
            name="tydiqa",
            summary="questions in eleven languages about one passage (TyDi QA GoldP)",
            hub_id="google-research-datasets/tydiqa",
            config="secondary_task",
            split="validation",
            from_hub=tydiqa,
            prefix=_FROM_DOCUMENTS,
            question_field="question",
        ),
        Source(
            name="ruler_needle",
            summary="a number hidden among others in a text of about 4,000 tokens (RULER, niah_multikey_1)",
            hub_id="rbiswasfc/ruler",
            config="niah_multikey_1_4k",
            split="validation",
            from_hub=ruler_needle,
            prefix=_FROM_DOCUMENTS,
            question_field="question",
        ),
        Source(
            name="agentdojo",
            summary="results of tools, some with injected instructions, and what the user asked for (AgentDojo)",
            hub_id="ffuuugor/agentdojo-dump",
            split="train",
            from_hub=agentdojo,
            prefix="You use tools to do what the user asks for. This is the result of a tool.",
            question_field="question",
        ),
    )
}


def checked_source(name: str, thing: Any) -> Source:
    """The data set that another package offers: a `Source`, or a function without arguments that gives its records.

    Raises:
        SettingError: it is neither; the message says what is wrong.
    """
    if not isinstance(thing, Source) and isfunction(thing):
        summary = (thing.__doc__ or name).strip().partition("\n")[0]
        thing = Source(name, summary, rows=thing)
    if not isinstance(thing, Source):
        raise SettingError(f"{thing!r:.80} is neither a jopa Source nor a function that gives records")
    if thing.name != name:
        raise SettingError(f"the data set has the name '{thing.name}', not '{name}'")
    if thing.rows is None and not thing.hub_id:
        raise SettingError("the data set needs 'rows', a function that gives its records, or a hub id")
    return thing


DATASETS: Registry[Source] = Registry(
    "data set", "jopa.datasets", _BUILTIN, checked_source, lambda thing: getattr(thing, "name", None)
)
"""Every data set by name: built in, registered with `DATASETS.register`, or offered by an installed package."""
