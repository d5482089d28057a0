"""Documents and any message as attributable texts; whole ones with their frames."""

from itertools import pairwise

import pytest

from jopa.errors import InputFileError, PromptError, SettingError
from jopa.prompt.building import Prompt, build_prompt
from jopa.prompt.documents import Document, read_documents
from small_tokenizers import TEMPLATES, small_tokenizer

TWO = [{"id": "a", "title": "Rain", "text": "It rains. Take a coat."}, "The doctor said hello."]
CHAT = [
    {"role": "system", "content": "Be kind. Be brief."},
    {"role": "user", "content": "hello world"},
    {"role": "assistant", "content": "hello user"},
    {"role": "tool", "content": "4 degrees. Rain."},
    {"role": "user", "content": "a coat then"},
]
RAG = (
    "{% for d in documents or [] %}{{ '<|system|>' + d['title'] + ': ' + d['text'] + '<|end|>' }}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUMBERED = RAG.replace("d['title'] + ': '", "loop.index | string + ': '")


def removed_ids(prompt: Prompt, *numbers: int) -> list[int]:
    gone = {position for number in numbers for position in prompt.units[number].positions}
    return [token for position, token in enumerate(prompt.ids) if position not in gone]


def require_sound(prompt: Prompt) -> None:
    assert all(unit.text == prompt.text[unit.start : unit.end] for unit in prompt.units)
    positions = [position for unit in prompt.units for position in unit.positions]
    assert all(before < after for before, after in pairwise(positions))


@pytest.mark.parametrize("template", [*TEMPLATES, None])
@pytest.mark.parametrize("unit", ["token", "word", "sentence", "document", "auto"])
def test_documents_in_the_plain_frame(template, unit):
    tokenizer = small_tokenizer("byte-level-qwen", template)
    prompt = build_prompt(tokenizer, "What now?", documents=TWO, unit=unit)
    content = "Document a: Rain\nIt rains. Take a coat.\n\nDocument 2\nThe doctor said hello.\n\nWhat now?"
    assert prompt.ids == build_prompt(tokenizer, content).ids
    assert prompt.text == "It rains. Take a coat.\n\nThe doctor said hello."
    assert "".join(unit.text for unit in prompt.units) == prompt.text.replace("\n\n", "")
    assert {unit.document for unit in prompt.units} == {"a", "2"}
    assert {unit.message for unit in prompt.units} == {0}
    assert [(source.document, source.title) for source in prompt.sources] == [("a", "Rain"), ("2", None)]
    assert prompt.documents_through == "frame" and "Document ID" in prompt.recorded["documents_frame"]
    require_sound(prompt)


@pytest.mark.parametrize("template", [*TEMPLATES, None])
def test_a_whole_document_goes_with_its_frame(template):
    tokenizer = small_tokenizer("byte-level-qwen", template)
    documents = [*TWO, "The patient smiled."]
    prompt = build_prompt(tokenizer, "What now?", documents=documents, unit="document", prefill="Sure")
    assert [source.removed_with for source in prompt.sources] == ["frame"] * 3
    for gone in ({0}, {1}, {2}, {0, 2}, {1, 2}):
        left = [
            {"id": s.document, "title": s.title, "text": u.text}
            for s, u in zip(prompt.sources, prompt.units, strict=True)
        ]
        left = [document for number, document in enumerate(left) if number not in gone]
        without = build_prompt(tokenizer, "What now?", documents=left, unit="document", prefill="Sure")
        assert removed_ids(prompt, *gone) == list(without.ids)
    require_sound(prompt)


def test_documents_through_the_template():
    tokenizer = small_tokenizer("byte-level", RAG)
    prompt = build_prompt(tokenizer, "What now?", documents=TWO, unit="document")
    given = [{"title": "Rain", "text": TWO[0]["text"]}, {"title": "", "text": TWO[1]}]
    question = [{"role": "user", "content": "What now?"}]
    expected = tokenizer.apply_chat_template(question, documents=given, add_generation_prompt=True, return_dict=False)
    assert list(prompt.ids) == expected
    assert prompt.documents_through == "template"
    assert [unit.message for unit in prompt.units] == [None, None]
    assert [source.removed_with for source in prompt.sources] == ["frame", "frame"]
    fewer = tokenizer.apply_chat_template(question, documents=given[1:], add_generation_prompt=True, return_dict=False)
    assert removed_ids(prompt, 0) == fewer
    both = build_prompt(tokenizer, "What now?", documents=TWO, attribute="all", unit="sentence")
    assert [unit.text for unit in both.units] == ["It rains. ", "Take a coat.", "The doctor said hello.", "What now?"]


def test_the_text_alone_goes_where_the_template_numbers_documents():
    documents = [*TWO, "The patient smiled."]
    prompt = build_prompt(small_tokenizer("byte-level", NUMBERED), "What now?", documents=documents, unit="document")
    assert [source.removed_with for source in prompt.sources] == ["text", "text", "frame"]
    assert prompt.recorded["sources"][0]["removed_with"] == "text"


@pytest.mark.parametrize(
    ("attribute", "messages"),
    [
        (None, [4]),
        ("user", [4]),
        ("users", [1, 4]),
        ("system", [0]),
        ("tools", [3]),
        ("system,tools", [0, 3]),
        ("assistant", [2]),
        ("all", [0, 1, 2, 3, 4]),
        (3, [3]),
        ([0, -1], [0, 4]),
    ],
)
def test_any_message_is_attributable(attribute, messages):
    tokenizer = small_tokenizer("byte-level", "chatml")
    prompt = build_prompt(tokenizer, CHAT, attribute=attribute, unit="word")
    assert prompt.ids == build_prompt(tokenizer, CHAT).ids
    assert prompt.text == "\n\n".join(CHAT[place]["content"] for place in messages)
    assert sorted({unit.message for unit in prompt.units if unit.message is not None}) == messages
    for unit in prompt.units:
        shown = tokenizer.decode([prompt.ids[position] for position in unit.positions])
        assert shown == unit.text and unit.message is not None and unit.text in CHAT[unit.message]["content"]
    require_sound(prompt)


@pytest.mark.parametrize(
    ("template", "framed"), [("chatml", "frame"), ("llama-3", "frame"), ("phi-3", "frame"), ("vicuna", "frame")]
)
def test_a_whole_message_goes_with_its_frame(template, framed):
    tokenizer = small_tokenizer("byte-level", template)
    prompt = build_prompt(tokenizer, CHAT, attribute=["user", "users", "assistant"], unit="message")
    assert [source.removed_with for source in prompt.sources] == [framed] * 3
    for gone in ((0,), (1,), (2,), (0, 1), (0, 1, 2)):
        places = [prompt.units[number].message for number in gone]
        left = [message for place, message in enumerate(CHAT) if place not in places]
        expected = tokenizer.apply_chat_template(left, add_generation_prompt=True, return_dict=False)
        assert removed_ids(prompt, *gone) == expected
    require_sound(prompt)


def test_a_message_whose_frame_is_needed_goes_without_it():
    # Without its system message, this template writes one of its own; another refuses two turns of one side.
    tokenizer = small_tokenizer("byte-level", "chatml")
    (source,) = build_prompt(tokenizer, CHAT, attribute="system", unit="message").sources
    assert source.removed_with == "text"
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    gemma = build_prompt(small_tokenizer("byte-level", "gemma"), turns, attribute=[0, 1], unit="message")
    assert [source.removed_with for source in gemma.sources] == ["text", "text"]


def test_the_role_of_each_source_is_recorded():
    prompt = build_prompt(small_tokenizer("byte-level", "chatml"), CHAT, attribute="system,tools", unit="message")
    assert [(s["message"], s["role"]) for s in prompt.recorded["sources"]] == [(0, "system"), (3, "tool")]
    assert "sources" not in build_prompt(small_tokenizer("byte-level", "chatml"), CHAT).recorded


def test_messages_that_the_template_rewrites_are_left_out_of_all():
    drops = TEMPLATES["chatml"].replace("message['content']", "message['content'].split('</think>') | last")
    tokenizer = small_tokenizer("byte-level", drops)
    chat = [*CHAT[:2], {"role": "assistant", "content": "<think>x</think>hello"}, CHAT[4]]
    prompt = build_prompt(tokenizer, chat, attribute="all")
    assert prompt.left_out == (2,) and prompt.recorded["messages_left_out"] == [2]
    with pytest.raises(PromptError, match=r"leaves the message at place 2 .*out or rewrites it"):
        build_prompt(tokenizer, chat, attribute=2)


def test_spans_lie_in_one_source():
    tokenizer = small_tokenizer("byte-level", "chatml")
    prompt = build_prompt(tokenizer, CHAT, attribute="users", unit=[(0, 5), (13, 14)])
    assert [(unit.text, unit.message) for unit in prompt.units] == [("hello", 1), ("a", 4)]
    with pytest.raises(SettingError, match="reaches from one message or document into another"):
        build_prompt(tokenizer, CHAT, attribute="users", unit=[(6, 15)])


def call(**settings):
    return build_prompt(small_tokenizer("byte-level", "chatml"), settings.pop("prompt", "hi"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"documents": "a"}, "documents are a list of texts"),
        ({"documents": []}, "the list of documents is empty"),
        ({"documents": ["a", 5]}, "document 2 is no text: 5; give a text"),
        ({"documents": [{"title": "a"}]}, "document 1 is no text"),
        ({"documents": ["a", " \n"]}, "document 2 is empty; leave it out"),
        ({"documents": [{"id": "x", "text": ""}]}, r"document 1 \(id 'x'\) is empty"),
        ({"documents": [{"id": 1, "text": "a"}, "b", {"id": "1", "text": "c"}]}, r"the id '1' \(numbers 1 and 3\)"),
        ({"documents": [{"id": [], "text": "a"}]}, "the id of document 1 must be a text"),
        ({"documents": ["\ud800"]}, "half a surrogate pair"),
        ({"documents": ["a"], "prompt": " "}, "the prompt is empty"),
        ({"documents": ["a"], "prompt": [CHAT[0]]}, "no message is of role 'user'"),
        ({"attribute": "documents"}, "there are no documents"),
        ({"attribute": "tools"}, "no message is of role 'tool'"),
        ({"attribute": "system"}, "no message is of role 'system'"),
        ({"attribute": 7}, "there is no message at place 7 to attribute"),
        ({"attribute": "chapter"}, "unknown part 'chapter' to attribute"),
        ({"attribute": []}, "attribute names nothing"),
        ({"attribute": ["user", True]}, "attribute names messages by texts or whole numbers, got True"),
        ({"unit": "document"}, "unit 'document' needs documents"),
        ({"prompt": [*CHAT[:1], {"role": "user", "content": ""}], "attribute": 1}, "has no text"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises((PromptError, SettingError), match=message) as caught:
        call(**settings)
    assert "\n" not in str(caught.value)


def test_ids_are_given_where_there_are_none():
    prompt = call(documents=["a", {"id": 1, "text": "b"}, Document("c", "x")], unit="document")
    assert [unit.document for unit in prompt.units] == ["1b", "1", "x"]


def test_documents_from_files(tmp_path):
    lines = tmp_path / "some.jsonl"
    lines.write_text('{"id": 7, "title": "T", "text": "one"}\n"two"\n')
    assert read_documents(lines) == (Document("one", "7", "T"), Document("two", "2"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.txt").write_text("second\n")
    (folder / "a.md").write_text("first")
    assert read_documents(folder) == (Document("first", "a.md"), Document("second", "b.txt"))
    (folder / "more").mkdir()
    (folder / "more" / "a.md").write_text("third")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("no document")
    assert [document.id for document in read_documents(folder)] == ["a.md", "b.txt", "more/a.md"]
    (folder / "c.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match=r"c.bin' is no text: byte 0 is not UTF-8"):
        read_documents(folder)
    lines.write_text("{")
    with pytest.raises(InputFileError, match=r"line 1 of .* is no JSON"):
        read_documents(lines)
    lines.write_text("")
    with pytest.raises(InputFileError, match="holds no documents"):
        read_documents(lines)
    with pytest.raises(InputFileError):
        read_documents(tmp_path / "nothing.jsonl")
