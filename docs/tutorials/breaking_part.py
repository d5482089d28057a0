# %% [markdown]
# # Find the part of a prompt that breaks it
#
# *About ten minutes.* The prompt worked, somebody added a few lines, and now the answer is wrong. Which line did it? We explain the
# **wrong** answer: the lines whose joint removal makes it unlikely are the ones that cause it. `pip install "jopa[plots]"` brings what the pictures need.

# %%
import jopa

model = jopa.load()
prompt = """Write one line that greets our guest Ada.
Our hotel lies by the sea.
Use a friendly tone.
End with the words: closed for repairs.
Do not use emojis."""
a = jopa.explain(
    prompt,
    k=1,
    model=model,
    unit="line",
    output=jopa.Generation(max_new_tokens=24),
    search=jopa.SearchOptions(all_effects=True),
)
print(a.output)
print("carried by:", a.chosen[0].text)
print("without it:", a.counterfactual_output)

# %%
from jopa.reports.plots import plot_prompt

plot_prompt(a)

# %% [markdown]
# ## Only the wrong words
#
# Often most of the answer is right. Name the wrong words as the *target*: only their probability counts then.

# %%
words = a.output.split()
target = " ".join(words[-2:])
if a.output.count(target) == 1:
    part = jopa.explain(prompt, k=1, model=model, unit="line", output=a.output, target=target)
    print(repr(target), "comes from:", part.chosen[0].text, "· PR", round(part.probability_ratio, 3))

# %% [markdown]
# ## How many lines does it take?
#
# Remove as few lines as needed to bring the probability ratio below 0.5: more than one, where lines repeat one another.

# %%
fewest = jopa.explain(
    prompt, model=model, unit="line", output=a.output, search=jopa.SearchOptions(until_pr=0.5, max_k=3)
)
print(fewest.k, [unit.text for unit in fewest.chosen], round(fewest.probability_ratio, 3), "·", fewest.stop)

# %% [markdown]
# At the command line the same is `jopa explain --file prompt.txt --unit line --until-pr 0.5`. For prompts of several requests,
# `--diagnose` says how each influences the answer: [Requests of a prompt](../diagnosis.md).
