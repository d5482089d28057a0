"""Serves the page with a tiny model from a process of its own, so that its memory can be measured.

Writes its address, then runs until it is ended.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

if __name__ == "__main__":
    import torch

    from jopa.web.limits import RequestLimits
    from jopa.web.server import serve
    from tiny_models import language_model_with_context

    torch.set_num_threads(1)
    limits = RequestLimits(tokens=2000)
    serve(lambda: language_model_with_context(4096), port=0, limits=limits, on_ready=lambda url: print(url, flush=True))
