"""The tests check the types and shapes of what functions get, those of inner functions too; see checked_fixtures."""

from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import jopa
from jopa.ordering import first_lowest


def made_inside() -> Any:
    def with_shapes(values: Float[Tensor, "rows units"]) -> Float[Tensor, "rows 1"]:
        return values.sum(dim=1, keepdim=True)

    def without(name: str) -> str:
        return name

    return tuple(jaxtyping.jaxtyped(typechecker=beartype)(function) for function in (with_shapes, without))


def test_a_wrong_shape_is_an_error(llama):
    prompt = jopa.build_prompt(llama.tokenizer, "write a story")
    scorer = jopa.ModelScorer(llama, prompt, jopa.Output((7,), "", (0, 1)), "delete")
    with pytest.raises(TypeCheckError):
        scorer.log_probs(torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        scorer.log_probs(torch.ones(1, 3))


def test_a_wrong_type_is_an_error_where_no_shape_is_named():
    wrong: Any = 3
    with pytest.raises(TypeCheckError):
        jopa.make_method(wrong)
    with pytest.raises(TypeCheckError):
        first_lowest(wrong)


def test_functions_inside_functions_are_checked_however_often_they_are_made():
    for number in range(9):
        with_shapes, without = made_inside()
        assert with_shapes(torch.ones(2, 3)).shape == (2, 1)
        with pytest.raises(TypeCheckError):
            with_shapes(torch.ones(2))
        if number < 3:  # those without shapes: the first of them
            with pytest.raises(TypeCheckError):
                without(1)
