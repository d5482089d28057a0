"""Whether a model generates with a cache as it does without; found by trying it on a few tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jopa.model.agreement import agree, probe_ids
from jopa.model.requirements import input_device
from jopa.model.state import evaluating, quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generates_with_cache(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a few tokens generated with a cache score as in a plain forward."""
    import torch
    from transformers import GenerationConfig

    ids = torch.tensor([probe_ids(model, tokenizer, 8)], device=input_device(model))
    settings = GenerationConfig(
        max_new_tokens=3, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    declared = model.generation_config
    try:
        with quiet_transformers(), evaluating(model), torch.no_grad():
            model.generation_config = settings
            found: Any = model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )
            plain = model(input_ids=found.sequences, use_cache=False).logits
        return agree(torch.stack(found.logits, dim=1), plain[:, ids.shape[1] - 1 : -1])
    except Exception:  # a model may fail in any way at what it cannot do
        return False
    finally:
        model.generation_config = declared
