"""Shapes in signatures are enforced while the tests run; tiny random models of every architecture."""

import collections
import gc
import inspect
import itertools
import re
import types
import typing

# Imported before TYPE_CHECKING is set, which must reach nothing but jopa.
import beartype
import captum.attr  # noqa: F401
import httpx  # noqa: F401
import jaxtyping
import pytest
import sklearn.pipeline  # noqa: F401
import torch
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase  # noqa: F401

_jaxtyped = jaxtyping.jaxtyped
_beartype = beartype.beartype(conf=beartype.BeartypeConf(violation_type=jaxtyping.TypeCheckError))  # as jaxtyping's
_SHAPES = re.compile(rf"\b({'|'.join(name for name in dir(jaxtyping) if name[0].isupper())})\d*\[")
_times_made: collections.Counter[types.CodeType] = collections.Counter()


def _jaxtyped_where_shapes_are(*functions, **settings):
    """jaxtyping's decorator for functions that name shapes; the types alone are checked of all others.

    That is as strict: where no shape is named, jaxtyping adds nothing but time to every call. A function inside another
    is made at every call of that, and its checks are compiled each time, so without shapes it is checked only the first
    three times.
    """

    def decorated(function):
        named = str(list(getattr(function, "__annotations__", {}).values()))
        if not inspect.isfunction(function) or _SHAPES.search(named):
            return _jaxtyped(function, **settings)
        if "<locals>" in function.__qualname__:
            _times_made[function.__code__] += 1
            if _times_made[function.__code__] > 3:
                return function
        return _beartype(function)

    return _jaxtyped(*functions, **settings) if functions else decorated


jaxtyping.jaxtyped = _jaxtyped_where_shapes_are  # the import hook writes this name above every function and class

# jopa names its shapes under TYPE_CHECKING to stay light; here those imports must really happen.
typing.TYPE_CHECKING = True
with jaxtyping.install_import_hook("jopa", "beartype.beartype"):
    import jopa
typing.TYPE_CHECKING = False

import tiny_models
from jopa.model import answer_cache

torch.set_num_threads(1)  # tiny models; the test processes share the cores
gc.freeze()  # the modules of torch and transformers are not gone through again at each collection


_TESTS = itertools.count()


@pytest.fixture(autouse=True)
def _own_answers(tmp_path_factory, monkeypatch):
    """Each test has a cache of answers of its own, empty at first."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_TESTS)}"
    monkeypatch.setattr(answer_cache, "cache_folder", lambda: folder)


@pytest.fixture(scope="session", params=sorted(tiny_models.BUILDERS))
def tiny(request) -> "jopa.LanguageModel":
    """A tiny random model of one architecture with a tokenizer of its own."""
    return tiny_models.language_model(request.param)


@pytest.fixture(scope="session")
def llama() -> "jopa.LanguageModel":
    return tiny_models.language_model("llama")
