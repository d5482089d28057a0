"""Tutorials are notebooks in percent format, `docs/tutorials/*.py`: run while the site is built, shown with their outputs.

A cell that fails fails the build. A notebook whose first lines hold `not executed` is shown as it is.
`JOPA_DOCS_EXECUTE=0` leaves all of them unexecuted, to look at the text quickly.
"""

import os
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

_SECONDS = 300  # for one cell
_SHOWN_FIRST = ("text/html", "image/svg+xml", "image/png", "text/plain")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page in the place of each tutorial."""
    root = Path(config.docs_dir)
    for source in sorted((root / "tutorials").glob("*.py")):
        name = source.relative_to(root)
        files.remove(files.get_file_from_path(str(name)))
        files.append(File.generated(config, str(name.with_suffix(".md")), content=page_of(source)))
    return files


def page_of(source: Path) -> str:
    """The Markdown of a tutorial, its cells run."""
    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    if "not executed" not in text[:400] and os.environ.get("JOPA_DOCS_EXECUTE") != "0":
        NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3").execute(cwd=str(source.parent))
    for cell in notebook.cells:
        cell.setdefault("outputs", []) if cell.cell_type == "code" else None
    exporter = MarkdownExporter()
    exporter.register_preprocessor(_best_output, enabled=True)
    body, _ = exporter.from_notebook_node(notebook)
    return body


def _best_output(notebook, resources):
    """Keep of each output the form that a page shows best, and what it printed; drop progress bars on stderr."""
    import base64

    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                continue
            data = output.get("data")
            if data:
                form = next((form for form in _SHOWN_FIRST if form in data), None)
                if form == "image/png":
                    picture = data[form].replace("\n", "")
                    output["data"] = {"text/html": f'<img src="data:image/png;base64,{picture}">'}
                elif form == "image/svg+xml":
                    encoded = base64.b64encode("".join(data[form]).encode()).decode()
                    output["data"] = {"text/html": f'<img src="data:image/svg+xml;base64,{encoded}">'}
                elif form:
                    output["data"] = {form: data[form]}
            if data and "text/html" in output["data"]:  # one block, so that Markdown leaves it as it is
                html = "".join(output["data"]["text/html"])
                lines = "\n".join(line for line in html.splitlines() if line.strip())
                output["data"] = {"text/html": f'<div class="output">\n{lines}\n</div>'}
            kept.append(output)
        cell.outputs = kept
    return notebook, resources
