"""Chat templates of a dozen families, in short versions that keep what makes each different.

What differs: where the system message goes, whether there is one, who numbers documents, what becomes of old traces,
how tools and their results are shown, and what is refused. `rendered` runs them in a plain Jinja environment, so that
ids can be checked against something that shares no code with the library.
"""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment

_BY_ROLE = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
_CALLS = "{% for c in m['tool_calls'] %}{{ CALL }}{% endfor %}"


def _with_call(template: str, call: str) -> str:
    """A template whose calls of tools are written in one way."""
    return template.replace("@CALLS@", _CALLS.replace("CALL", call, 1))


FAMILIES = {
    # Qwen 2.5 and 3: tools in the system message; results of tools in a turn of the user; old traces are dropped.
    "qwen": _with_call(
        "{% set last = namespace(user=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
        "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0]['role'] == 'system' %}"
        "{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ '# Tools\n<tools>' }}{% for t in tools %}{{ '\n' }}"
        "{{ t | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}{% elif messages[0]['role'] == 'system' %}"
        "{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{% if m['role'] == 'user' or (m['role'] == 'system' and not loop.first) %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% elif m['role'] == 'assistant' %}{% set said = m['content'] or '' %}"
        "{% if '</think>' in said and loop.index0 < last.user %}"
        "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' + said }}"
        "{% if m['tool_calls'] %}@CALLS@{% endif %}{{ '<|im_end|>\n' }}"
        "{% elif m['role'] == 'tool' %}{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}"
        "{{ '<|im_start|>user' }}{% endif %}{{ '\n<tool_response>\n' + m['content'] + '\n</tool_response>' }}"
        "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}",
        "'\n<tool_call>\n' + c['function'] | tojson + '\n</tool_call>'",
    ),
    # Llama 3.1: the date in a system message that is always there; tools in the first message of the user.
    "llama-3.1": _with_call(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}"
        "{% if tools %}{% set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}"
        "{{ '<|start_header_id|>user<|end_header_id|>\n\nGiven these functions:\n\n' }}{% for t in tools %}"
        "{{ t | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}{{ first + '<|eot_id|>' }}{% endif %}"
        "{% for m in messages %}{% if m['tool_calls'] %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}@CALLS@{{ '<|eot_id|>' }}"
        "{% elif m['role'] == 'tool' or m['role'] == 'ipython' %}"
        "{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% else %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "'{\"name\": \"' + c['function']['name'] + '\", \"parameters\": ' + c['function']['arguments'] | tojson + '}'",
    ),
    # Mistral v3: the system message before the last one of the user, tools too; sides must take turns.
    "mistral": _with_call(
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% endif %}{% set ns = namespace(index=0, last=-1) %}{% for m in messages %}"
        "{% if (m['role'] == 'user' or m['role'] == 'assistant') and not m['tool_calls'] %}"
        "{% if (m['role'] == 'user') != (ns.index % 2 == 0) %}"
        "{{ raise_exception('conversation roles must alternate user and assistant roles') }}{% endif %}"
        "{% set ns.index = ns.index + 1 %}{% endif %}"
        "{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ bos_token }}"
        "{% for m in messages %}{% if m['role'] == 'user' %}{% if tools and loop.index0 == ns.last %}"
        "{{ '[AVAILABLE_TOOLS] ' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}"
        "{% if loop.index0 == ns.last and system is defined %}"
        "{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}"
        "{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}"
        "{% elif m['tool_calls'] %}{{ '[TOOL_CALLS] [' }}@CALLS@{{ ']' + eos_token }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}"
        "{% elif m['role'] == 'tool' %}"
        "{{ '[TOOL_RESULTS] {\"content\": ' + m['content'] | string + '}[/TOOL_RESULTS]' }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}",
        "c['function'] | tojson",
    ),
    # Gemma 3: the system message begins the first one of the user; sides must take turns; no tools.
    "gemma-3": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{{ (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Phi-4-mini: tools within the system message; marks that take the blanks beside them into the token.
    "phi-4": (
        "{% for m in messages %}{% if m['role'] == 'system' and tools %}"
        "{{ '<|system|>' + m['content'] + '<tools>' }}{{ tools | tojson }}{{ '</tools><|end|>' }}{% else %}"
        "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # Command-R: documents, numbered, as a result of a tool behind the messages.
    "command-r": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = 'You are Command-R.' %}{% endif %}"
        "{{ '<|START|><|SYSTEM|>' + system + '<|END_OF_TURN|>' }}{% for m in messages %}"
        "{{ '<|START|>' + ('<|CHATBOT|>' if m['role'] == 'assistant' else '<|USER|>') + m['content'] | trim }}"
        "{{ '<|END_OF_TURN|>' }}{% endfor %}{% if documents %}{{ '<|START|><|SYSTEM|><results>\n' }}"
        "{% for d in documents %}{{ 'Document: ' }}{{ loop.index0 }}"
        "{{ '\ntitle: ' + d['title'] + '\n' + d['text'] + '\n\n' }}{% endfor %}"
        "{{ '</results><|END_OF_TURN|>' }}{% endif %}"
        "{% if add_generation_prompt %}{{ '<|START|><|CHATBOT|>' }}{% endif %}"
    ),
    # Granite 3.3: a turn for each document, with its id; without a system message one of its own, which tells whether
    # there are documents; how an answer begins stands after the last message that is not the system's.
    "granite": (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% elif documents %}{% set system = 'Answer from the documents.' %}"
        "{% else %}{% set system = 'You are Granite.' %}{% endif %}"
        "{{ '<|start_of_role|>system<|end_of_role|>' + system + '</s>\n' }}"
        "{% for d in documents or [] %}{{ '<|start_of_role|>document {\"document_id\": \"' + d['doc_id'] | string }}"
        "{{ '\"}<|end_of_role|>\n' + d['text'] + '</s>\n' }}{% endfor %}{% for m in messages %}"
        "{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '</s>\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
        "{% endfor %}"
    ),
    # DeepSeek V3 and R1: every system message goes to the front; results of tools follow one another in one block.
    "deepseek": _with_call(
        "{% set ns = namespace(system='', in_tools=false) %}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{% set ns.system = ns.system + ('\n\n' if ns.system else '') + m['content'] %}{% endif %}{% endfor %}"
        "{{ bos_token + ns.system }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ '<|User|>' + m['content'] }}{% set ns.in_tools = false %}"
        "{% elif m['role'] == 'assistant' and m['tool_calls'] %}"
        "{{ '<|Assistant|><|calls|>' }}@CALLS@{{ '<|/calls|></s>' }}"
        "{% elif m['role'] == 'assistant' %}{% set said = m['content'] %}{% if '</think>' in said %}"
        "{% set said = said.split('</think>')[-1] %}{% endif %}"
        "{% if ns.in_tools %}{{ '<|/outputs|>' + said + '</s>' }}{% set ns.in_tools = false %}{% else %}"
        "{{ '<|Assistant|>' + said + '</s>' }}{% endif %}{% elif m['role'] == 'tool' %}"
        "{{ ('' if ns.in_tools else '<|outputs|>') + '<|output|>' + m['content'] + '<|/output|>' }}"
        "{% set ns.in_tools = true %}{% endif %}{% endfor %}{% if ns.in_tools %}{{ '<|/outputs|>' }}"
        "{% elif add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
        "'<|call|>' + c['function']['name'] + '\n' + c['function']['arguments'] | tojson + '<|/call|>'",
    ),
    # Hermes: a turn of its own for each result of a tool.
    "hermes": _with_call(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'tool' %}{{ '<tool_response>\n' + m['content'] + '\n</tool_response>' }}"
        "{% else %}{{ m['content'] or '' }}{% if m['tool_calls'] %}@CALLS@{% endif %}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "'<tool_call>\n' + c['function'] | tojson + '\n</tool_call>\n'",
    ),
    # gpt-oss: channels; the first system message is the developer's.
    "harmony": _with_call(
        "{{ '<|start|>system<|message|>Reasoning: medium<|end|>' }}{% for m in messages %}"
        "{% if m['role'] == 'system' or m['role'] == 'developer' %}"
        "{{ '<|start|>developer<|message|># Instructions\n\n' + m['content'] + '<|end|>' }}"
        "{% elif m['role'] == 'user' %}{{ '<|start|>user<|message|>' + m['content'] + '<|end|>' }}"
        "{% elif m['role'] == 'tool' %}{{ '<|start|>functions.find to=assistant<|channel|>commentary<|message|>' }}"
        "{{ m['content'] | tojson + '<|end|>' }}{% elif m['tool_calls'] %}@CALLS@{% else %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        "'<|start|>assistant to=functions.find<|channel|>commentary json<|message|>' + "
        "c['function']['arguments'] | tojson + '<|call|>'",
    ),
    # Zephyr: a mark, a line, EOS.
    "zephyr": _BY_ROLE + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    # SmolVLM and other models of text and images: contents are lists of parts.
    "parts": (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize + ':' }}{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{{ '<|end_of_utterance|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    # Alpaca: words as marks, no special tokens.
    "alpaca": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
        "{% elif m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}{% else %}"
        "{{ '### Response:\n' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
    ),
}
WITH_TOOLS = ("qwen", "llama-3.1", "mistral", "deepseek", "hermes", "harmony")
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]


def _raise(message: str) -> None:
    raise ValueError(message)


def rendered(family, messages, *, tools=None, documents=None, **arguments) -> str:
    """What a family's template writes before an answer, without transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise
    if family == "parts":
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    template = environment.from_string(FAMILIES[family])
    given = {"messages": messages, "tools": tools, "documents": documents, "add_generation_prompt": True}
    return template.render(bos_token="<s>", eos_token="</s>", **given, **arguments)
