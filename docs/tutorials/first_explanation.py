# %% [markdown]
# # First explanation
#
# *About five minutes, most of them for unpacking the model, once. Everything on this page was computed when it was built.*
#
# `jopa` finds the parts of a prompt that **together** carry the model's own answer. We take the bundled model,
# SmolLM2-135M-Instruct, and load it once. `pip install "jopa[plots]"` brings what the pictures need.

# %%
import jopa

model = jopa.load()
a = jopa.explain(
    "Write a story about the doctor and his patient.",
    k=2,
    model=model,
    unit="word",
    output=jopa.Generation(max_new_tokens=24),
    search=jopa.SearchOptions(all_effects=True),
)
print(a.output)

# %% [markdown]
# As the last line of a notebook's cell, `a` shows itself as a page. Its values are the units, their effects in nats, and what the
# model says without them.

# %%
print([unit.text for unit in a.chosen])
print("alone:", [round(effect, 2) for effect in a.individual], "together:", round(a.joint, 2))
print("synergy:", round(a.synergy, 2), "· probability ratio:", round(a.probability_ratio, 3))
print("proved:", a.certificate)
print("without them:", a.counterfactual_output)

# %% [markdown]
# **Read it like this.** *Alone* is by how many nats the answer's log-probability falls without that unit. *Together* is the same
# without both. The *synergy* is the difference: positive where the units are redundant: either is enough. A *probability ratio* of
# 0.3 says that each token of the answer became, on average, 0.3 times as likely.
#
# ## As pictures

# %%
from jopa.reports.plots import plot_effects, plot_prompt

plot_effects(a)

# %%
plot_prompt(a)

# %% [markdown]
# Orange: removing the word makes the answer less likely. Blue: more likely. Frames mark the chosen set. `dark=True` draws for a dark
# background; `figure.savefig("why.svg")` writes it.
#
# ## Keep it

# %%
text = a.to_json()
assert jopa.Attribution.from_json(text) == a
print(len(text), "characters hold all that is needed to do it again")

# %% [markdown]
# Next: [why does my system prompt not work?](system_prompt.md), or
# [the mathematics](../maths.md).
