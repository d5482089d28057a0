"""Wrappers around a model that are no part of it."""

import torch

from jopa.model.requirements import without_replicas


def test_of_a_model_in_parallel_copies_the_one_inside_is_taken(llama):
    assert without_replicas(torch.nn.DataParallel(llama.model)) is llama.model
    assert without_replicas(llama.model) is llama.model


def test_of_a_compiled_model_the_one_inside_is_taken(llama):
    assert without_replicas(torch.compile(llama.model, backend="eager")) is llama.model
    assert without_replicas(torch.nn.DataParallel(torch.compile(llama.model, backend="eager"))) is llama.model
