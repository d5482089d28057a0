# %% [markdown]
# # A model behind vLLM
#
# *About ten minutes.* This page is **not executed** when the site is built: it needs a server. `make test-servers`
# runs explanations against a real one. `pip install "jopa[remote]"` brings what asks it.
#
# Start a server that gives log-probabilities of prompt tokens:
#
# ```
# vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --max-logprobs 5
# ```
#
# and connect. Only the tokenizer is loaded here; no weights.

# %%
import jopa

model = jopa.connect("http://127.0.0.1:8000", model="HuggingFaceTB/SmolLM2-135M-Instruct")
a = jopa.explain("Write a story about the doctor and his patient.", k=3, model=model)
print([unit.text for unit in a.chosen], a.probability_ratio)

# %% [markdown]
# A black box gives scores only: `joint`, `greedy`, `ablation`, `shapley`, `context-cite`, `interactions` and `random` work, under removal
# `delete`. Methods that need gradients or attention are refused before any request.
#
# At the command line:
#
# ```
# jopa explain "Why is the sky blue?" --endpoint http://127.0.0.1:8000 --endpoint-model HuggingFaceTB/SmolLM2-135M-Instruct
# ```
#
# Scores are kept on disk, so a repeated run sends nothing; `--max-tokens-sent` limits what is sent. [Served models](../servers.md)
# says what a server must give, how keys are passed, and what is checked.
