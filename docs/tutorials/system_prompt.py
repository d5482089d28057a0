# %% [markdown]
# # Why does my system prompt not work?
#
# *About ten minutes.* A rule in the system prompt has no visible effect. Is it not read, or is it overruled? We write the rules as
# units and ask what each of them does to the answer. `pip install "jopa[plots]"` brings what the pictures need.

# %%
import jopa

model = jopa.load()
rules = "You are a cook. Answer in one sentence. Always mention salt."
question = "How do I boil potatoes?"
prompt = f"{rules}\n{question}"
a = jopa.explain(
    prompt,
    k=1,
    model=model,
    unit="sentence",
    output=jopa.Generation(max_new_tokens=32),
    search=jopa.SearchOptions(all_effects=True),
)
print(a.output)

# %%
for unit, effect in zip(a.units, a.effects, strict=True):
    print(f"{effect:7.2f} nats  {unit.text}")

# %% [markdown]
# A rule near 0 nats was **not used**: with or without it this answer is as likely. A rule below 0 stands in the answer's way: it was
# read, and **overruled**. A rule far above 0 shaped the answer.

# %%
from jopa.reports.plots import plot_prompt

plot_prompt(a)

# %% [markdown]
# ## Was it hidden by another rule?
#
# Two rules that say the same each look unused, because the other remains. Asked for two units together, the search sees it: the
# synergy is what the two do beyond what each does alone.

# %%
pair = jopa.explain(prompt, k=2, model=model, unit="sentence", output=a.output)
print([unit.text for unit in pair.chosen], "synergy:", round(pair.synergy, 2), "proved:", pair.certificate)

# %% [markdown]
# ## What would have to be said for the rule to work?
#
# Explain the answer that you *wanted*: which parts of the prompt support it, and how likely is it at all?

# %%
wanted = jopa.explain(
    prompt, k=1, model=model, unit="sentence", output="Boil them in water with salt for twenty minutes.",
    search=jopa.SearchOptions(all_effects=True),
)  # fmt: skip
n = len(wanted.output_ids)
print(f"{wanted.log_prob / n:.2f} nats a token for the wanted answer")
for unit, effect in zip(wanted.units, wanted.effects, strict=True):
    print(f"{effect:7.2f} nats  {unit.text}")

# %% [markdown]
# A rule with a positive effect here pulls towards the wanted answer: say it more strongly, or later. A system message that is a message
# of its own stays in place unless you ask for it: the command line's `--attribute system` explains it, and `--messages` takes a
# whole chat.
