"""What scores must equal: one plain forward of transformers a mask, no cache, no batch."""

import torch


def reference(model, prompt, output, removal, removed):
    """One full forward, all logits, no cache, no batch: log p of each target token."""
    target = range(*output.target)
    return reference_distributions(model, prompt, output, removal, removed)[
        range(len(target)), [output.ids[i] for i in target]
    ]


def reference_distributions(model, prompt, output, removal, removed):
    """The same forward: log p of every token of the vocabulary at each target position."""
    gone = [position for i in removed for position in prompt.units[i].positions]
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    positions = torch.arange(ids.shape[1])[None]
    start = len(prompt.ids)
    if removal == "delete":
        stay = [i for i in range(ids.shape[1]) if i not in gone]
        ids, start = ids[:, stay], start - len(gone)
        arguments = {"input_ids": ids}
    elif removal == "zero":
        embeddings = model.model.get_input_embeddings()(ids).clone()
        embeddings[0, gone] = 0.0
        arguments = {"inputs_embeds": embeddings}
    else:
        attention = torch.ones_like(ids)
        attention[0, gone] = 0
        arguments = {"input_ids": ids, "attention_mask": attention, "position_ids": positions}
    with torch.no_grad():
        logits = model.model(**arguments, use_cache=False).logits[0].double()
    return logits.log_softmax(-1)[start - 1 : start - 1 + len(output.ids)][slice(*output.target)]


def keep_masks(n_units, sets):
    keep = torch.ones(len(sets), n_units, dtype=torch.bool)
    for row, removed in enumerate(sets):
        keep[row, list(removed)] = False
    return keep
