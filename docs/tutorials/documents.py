# %% [markdown]
# # Is my answer from my documents?
#
# *About ten minutes.* A model answers a question with documents in its prompt. Does the answer come from them, and from which? Or did it
# know already?

# %%
import jopa

model = jopa.load()
documents = [
    "The Lindgren bridge was opened in 1931. It is painted green.",
    "Boats may pass under the Lindgren bridge at night only.",
    "The town's bakery sells rye bread and buns.",
]
question = "What colour is the Lindgren bridge?"
a = jopa.explain(question, documents=documents, k=1, model=model, output=jopa.Generation(max_new_tokens=16))
print(a.output)
print("comes from:", [unit.text for unit in a.chosen], "· PR", round(a.probability_ratio, 3))
print("without it:", a.counterfactual_output)

# %% [markdown]
# A small probability ratio says that the answer depends on the document. A ratio near 1 says that it does not: the model answered from
# what it knew, or from the question.
#
# ## Sentence by sentence
#
# An answer of several sentences may come from several places. `cite` finds for each of them the smallest set of source sentences
# without which it becomes unlikely. We add a sentence that no document says.

# %%
answer = "The Lindgren bridge is painted green. Boats pass under it at night only. The capital of France is Paris."
citations = jopa.cite(question, documents, model=model, output=answer)
for citation in citations.citations:
    print(f"{citation.part.text}  [{citation.status}]")
    for i in citation.sources:
        print("   from:", citations.units[i].text)
    print(f"   without its sources PR {citation.necessity:.2f}, with them alone {citation.sufficiency:.2f}")

# %% [markdown]
# "elsewhere" means: without any of the documents the model would say this about as well.
#
# ## The same fact twice
#
# Retrieved documents often repeat one another. Without one copy the answer stays as likely, so methods that leave out one document at a
# time find nothing. Taken together, the copies are found.

# %%
twice = [*documents, "Its green paint makes the Lindgren bridge, opened in 1931, easy to see."]
pair = jopa.explain(question, documents=twice, k=2, model=model, output="The Lindgren bridge is painted green.")
for unit, effect in zip(pair.chosen, pair.individual, strict=True):
    print(f"{effect:6.2f} nats alone   {unit.text[:70]}")
print(f"{pair.joint:6.2f} nats together, synergy {pair.synergy:.2f}")

# %% [markdown]
# A notebook shows citations as a page: point at a sentence of the answer, and its sources light up.

# %%
citations

# %% [markdown]
# [Answers from documents](../documents.md) says how documents are put into the prompt, and how to go from documents to sentences.
