"""What the tests of reports share: an attribution made by hand, and a page read back."""

import io
import math
import re
from html.parser import HTMLParser

from rich.console import Console

from jopa.method import TraceStep
from jopa.prompt.building import Unit
from jopa.reports.terminal import to_terminal
from jopa.results.attribution import Attribution

HOSTILE = """<script>alert(1)</script> "><img src=x onerror='alert(2)'> </style></div> &lt; {{ 7*7 }} [red]x[/red]"""
VOID = {"meta", "link", "img", "br", "hr", "input"}


def attribution(pieces=("Tell", " a", " story", " of", " doctors"), removed=(4, 2), individual=(9.5, 3.25), **changes):
    """An attribution whose numbers fit together; joint effect 14.5 nats unless the changes say otherwise."""
    units, start = [], 0
    for position, text in enumerate(pieces):
        units.append(Unit(text, start, start + len(text), (position,)))
        start += len(text)
    joint, n_output = changes.pop("joint", 14.5), changes.pop("n_output", 8)
    values = {
        "model": {"id": "some/model", "revision": "abc123", "dtype": "bfloat16", "device": "cuda:0"},
        "prompt": "".join(pieces),
        "input_ids": tuple(range(len(pieces))),
        "units": tuple(units),
        "output": "Once a doctor met a patient.",
        "output_ids": tuple(range(n_output)),
        "target": (0, n_output),
        "removal": "hide",
        "k": len(removed),
        "removed": tuple(removed),
        "log_prob": -20.75,
        "log_prob_removed": -20.75 - joint,
        "probability_ratio": math.exp(-joint / n_output),
        "individual": tuple(individual),
        "synergy": joint - sum(individual),
        "counterfactual_output": "Once a lawyer met a patient.",
        "method": {"name": "some-search", "steps": 77, "start": "abs"},
        "seed": 4321,
        "evaluations": 1234,
        "ffe": 56.75,
        "seconds": 7.9,
        "trace": (TraceStep(0, -22.5, 2, 4.0), TraceStep(1, -22.5, 3, 5.0), TraceStep(2, -35.25, 4, 6.5)),
        "stop": "budget spent",
        "certificate": "one-swap-optimal",
        "versions": {"jopa": "9.8.7", "torch": "2.99"},
    }
    return Attribution(**{**values, **changes})


class Page(HTMLParser):
    """What a browser would find: every element with its attributes and the text inside it."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": ""})

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attrs):
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attrs.items()}
        return [e for e in self.elements if e["tag"] == tag and named.items() <= e["attrs"].items()]

    def texts(self, tag, **attrs):
        return [element["text"] for element in self.all(tag, **attrs)]

    @property
    def words(self):
        root = next(e for e in self.elements if "jopa" in e["attrs"].get("class", "").split())
        styles = self.texts("style")
        return root["text"].replace(styles[-1], "")

    @property
    def boxes(self):
        """The texts of the prompt, the output and the output without the units."""
        return [e["text"] for e in self.elements if "scroll" in e["attrs"].get("class", "")]


def terminal(value, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(to_terminal(value))
    return console.file.getvalue()


def squeezed(text):
    return re.sub(r"\s+", " ", text)
