"""The `jopa` command: parse, call, print.

Exit codes: 0 done; 1 could not (one line on stderr, a traceback only with --debug); 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from jopa.errors import InputFileError, JopaError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from jopa.attribution import Attribution
    from jopa.bench import Progress as CellProgress
    from jopa.datasets import Dataset
    from jopa.diagnosis import Diagnosis
    from jopa.prompt import Message, Span

app = typer.Typer(
    help="Which parts of this prompt, taken together, made the model say this?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_OF_A_SEARCH = {
    **{"k": "--k", "until_pr": "--until-pr", "max_k": "--max-k", "method": "--method", "compare": "--compare"},
    **{"settings": "--set", "budget": "--budget", "all_effects": "--all-effects"},
}
"""Options of `explain` that mean nothing to a diagnosis."""


@app.command()
def explain(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="The prompt to explain.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(help="Read the prompt from a UTF-8 file ('-': stdin).")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="Chat messages, a JSON list; the last user message is explained.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or .gguf file.", show_default="the bundled model")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many units to find.")] = 3,
    until_pr: Annotated[
        float | None,
        typer.Option("--until-pr", help="Find the smallest k that brings PR below this.", show_default=False),
    ] = None,
    max_k: Annotated[int | None, typer.Option(help="The most units for --until-pr.", show_default="10")] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="What the answer makes of each request, instead of a search.")
    ] = False,
    band: Annotated[
        str | None, typer.Option(help="PR that --diagnose takes for unchanged, LOW:HIGH.", show_default="0.95:1.05")
    ] = None,
    method: Annotated[str, typer.Option(help="See 'jopa methods'.")] = "jopa",
    compare: Annotated[
        str | None, typer.Option(help="Methods to compare on the same output, NAME,NAME,…", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeatable.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="token, word, sentence, line, or spans such as 0-10,12-20 (characters).",
            show_default="token; sentence with --diagnose",
        ),
    ] = None,
    removal: Annotated[str | None, typer.Option(help="delete, zero or hide.", show_default="the method's own")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    prefix: Annotated[str | None, typer.Option(help="A fixed instruction before the prompt.")] = None,
    prefill: Annotated[str | None, typer.Option(help="The beginning of the answer.")] = None,
    output: Annotated[
        str | None, typer.Option(help="The text to explain.", show_default="what the model generates")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Part of the output: tokens START:END, or a text in it.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens to generate.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    budget: Annotated[int | None, typer.Option(help="How much a search may spend.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    all_effects: Annotated[bool, typer.Option("--all-effects", help="Score every unit alone, too.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the attribution as JSON ('-': stdout).")
    ] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.", show_default="the best there is")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16.", show_default="bfloat16 on CUDA, else float32"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Masks in one forward.", show_default="as many as pay")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Find the k units of a prompt that together made the model answer as it did."""
    text = _prompt(prompt, file, messages)
    for path in (json_path, html_path):
        _require_writable(path)
    if json_path is not None and json_path == html_path:
        raise typer.BadParameter("--json and --html name the same file")
    if diagnose:
        for name, option in _OF_A_SEARCH.items():
            if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE":
                raise typer.BadParameter(f"--diagnose removes every unit and searches nothing: leave out {option}")
    if until_pr is not None and (source := context.get_parameter_source("k")) and source.name == "COMMANDLINE":
        raise typer.BadParameter("--until-pr finds k: leave out --k, or limit it with --max-k")
    if band is not None and not diagnose:
        raise typer.BadParameter("--band needs --diagnose")
    spans = _unit(unit or ("sentence" if diagnose else "token"))
    part = _target(target)

    from jopa import explanation
    from jopa.loading import load
    from jopa.methods import make_method

    if compare is None:
        given = dict(map(_setting, settings or []))
        chosen = [make_method(method, **given if budget is None else given | {"budget": budget})]
    else:
        chosen = [make_method(name.strip()) for name in compare.split(",")]
        if settings or budget is not None:
            raise SettingError("--compare runs each method with its own settings; leave out --set and --budget")
    options = {
        "k": k,
        "until_pr": until_pr,
        "max_k": max_k,
        "unit": spans,
        "removal": removal,
        "system": system,
        "prefix": prefix,
        "prefill": prefill,
        "output": output,
        "target": part,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "all_effects": all_effects,
        "batch_size": batch_size,
    }
    with _progress() as progress:
        progress("loading the model", 0, None)
        options |= {"progress": progress}
        language_model = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if diagnose:
            from jopa import diagnosis

            for name in ("k", "until_pr", "max_k", "all_effects"):
                del options[name]
            options |= {"removal": removal or "delete", "band": _band(band) if band else diagnosis.BAND}
            diagnosed = diagnosis.diagnose(text, model=language_model, **options)
            deliver = partial(_deliver_diagnosis, diagnosed, json_path, html_path)
        else:
            if compare is None:
                found = [explanation.explain(text, model=language_model, method=chosen[0], **options)]
            else:
                options["removal"] = removal or "delete"
                found = list(explanation.compare(text, chosen, model=language_model, **options))
            deliver = partial(_deliver, found, compare is not None, json_path, html_path)
    deliver()


@app.command()
def bench(
    experiment: Annotated[Path, typer.Argument(help="A TOML file; see 'experiments/'.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of its records; a run goes on where it stopped.", show_default="runs/EXPERIMENT"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The most prompts a data set.", show_default="the file's")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="One model instead of the file's: hub id, folder, .gguf file, or 'bundled'."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE.jsonl: in place of the hub, or a set of your own; repeatable.", show_default=False
        ),
    ] = None,
    sets: Annotated[str | None, typer.Option(help="Only these data sets, NAME,NAME,…", show_default="all")] = None,
    only: Annotated[
        str | None, typer.Option("--methods", help="Only these methods, LABEL;LABEL;…", show_default="all")
    ] = None,
    prefill: Annotated[
        str | None, typer.Option(help="The beginning of every answer; '' for none.", show_default="the data set's")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of an output.", show_default="the file's")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do failed cells again.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Spread the work with Ray, on this machine by default.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster: 'auto' or HOST:PORT; implies --ray.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers.", show_default="one a GPU, or one a processor")
    ] = None,
    worker_cpus: Annotated[int, typer.Option(help="Processors of each Ray worker.")] = 1,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Run an experiment: every method on every prompt, one record a cell; goes on where it stopped."""
    from jopa.bench import run_bench, serially
    from jopa.cluster import RayMap
    from jopa.experiment import read_experiment

    if workers is not None and not (ray or ray_address):
        raise typer.BadParameter("--workers needs --ray")
    files = {}
    for item in data or []:
        name, equals, path = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"cannot read --data '{item}': write NAME=FILE.jsonl")
        files[name] = path
    wanted = read_experiment(
        experiment, limit=limit, model=model, data=files, prefill=prefill, max_new_tokens=max_new_tokens
    )
    folder = out or Path("runs", experiment.stem)
    mapper = RayMap(ray_address, workers, worker_cpus) if ray or ray_address else serially
    try:
        with _cell_progress() as on_progress:
            outcome = run_bench(
                wanted,
                folder,
                sets=[name.strip() for name in (sets or "").split(",") if name.strip()],
                methods=[label.strip() for label in (only or "").split(";") if label.strip()],
                retry_failed=retry_failed,
                mapper=mapper,
                on_data=_tell_data,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        _fail(f"stopped; what is done is in '{folder}', and the same command goes on from there")
    typer.echo(f"{outcome.done} cells done, {outcome.failed} failed, {outcome.before} were there already", err=True)
    if outcome.left:
        typer.echo(f"{outcome.left} cells failed at an earlier start; --retry-failed does them again", err=True)
    typer.echo(f"See them: jopa report {folder}", err=True)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a benchmark run.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes.", show_default="the run's own folder, report/")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn the records of a benchmark run into tables, figures and a page; runs no model."""
    from jopa.benchmark_report import write_report

    for path in write_report(folder, out):
        typer.echo(path)


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="The folder of a benchmark run.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the gallery goes.", show_default="the run's own folder, gallery/")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Two methods, LABEL;LABEL.", show_default="the baseline and leave-one-out"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Show what two methods chose on the same prompts, and the answers without it; runs no model."""
    from jopa.gallery import write_gallery

    chosen = None if methods is None else [label.strip() for label in methods.split(";") if label.strip()]
    for path in write_gallery(folder, out, methods=chosen):
        typer.echo(path)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 0: any free one.", min=0, max=65535)] = 7860,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or .gguf file.", show_default="the bundled model")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.", show_default="the best there is")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16.", show_default="bfloat16 on CUDA, else float32"),
    ] = None,
    share_password: Annotated[
        str | None, typer.Option(help="What visitors must know; any user name.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a password.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Open the web page: type a prompt, watch the search, take units out and put them back."""
    from jopa import app as page
    from jopa.loading import load

    page.serve(
        lambda: load(model, device=device, dtype=dtype),
        host=host,
        port=port,
        password=share_password,
        insecure=insecure,
        on_ready=lambda url: typer.echo(f"{url}  (Ctrl-C ends it)"),
    )


@app.command()
def methods() -> None:
    """List the methods, one line each."""
    from jopa.methods import METHODS

    needs = {"scores": "black box", "gradient": "gradient", "attention": "attention", "model": "model"}
    rows = [("METHOD", "NEEDS", "COST IN FFE", "WHAT IT IS")]
    rows += [(name, needs[method.requires], method.cost, method.summary) for name, method in METHODS.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def models() -> None:
    """List the models that need no download, one line each."""
    from jopa.loading import local_models

    for name, where in local_models():
        typer.echo(f"{name}  {where}")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"jopa {version('jopa')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Which parts of this prompt, taken together, made the model say this?"""


def main() -> None:
    """Run the command line; see the module's exit codes."""
    debug = "--debug" in sys.argv
    try:
        app()
    except JopaError as error:
        if debug:
            raise
        _fail(" ".join(str(error).split()))
    except Exception as error:  # a fault of ours: still one line, and how to see the rest
        if debug:
            raise
        reason = " ".join(str(error).split())
        _fail(f"unexpected {type(error).__name__}: {reason:.300}; run again with --debug for the traceback")


def _fail(line: str) -> NoReturn:
    typer.echo(f"jopa: {line}", err=True)
    sys.exit(1)


def _prompt(prompt: str | None, file: Path | None, messages: Path | None) -> str | list[Message]:
    """The prompt from the one place where the user put it."""
    if sum(source is not None for source in (prompt, file, messages)) != 1:
        raise typer.BadParameter("give exactly one of PROMPT, --file and --messages")
    if prompt is not None:
        return prompt
    if file is not None:
        return _read(file).removesuffix("\n").removesuffix("\r")
    assert messages is not None
    try:
        chat = json.loads(_read(messages))
    except ValueError as error:
        raise InputFileError(f"'{messages}' is no JSON: {error}") from error
    if not isinstance(chat, list) or not all(isinstance(message, dict) for message in chat):
        raise InputFileError(
            f'\'{messages}\' must hold a JSON list of chat messages, as [{{"role": "user", "content": "…"}}]'
        )
    return chat


def _read(path: Path) -> str:
    """The text of a UTF-8 file, line ends untouched; '-' is stdin."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputFileError(f"'{path}' is not UTF-8: byte {error.start} cannot be read; save it as UTF-8") from error


def _require_writable(path: Path | None) -> None:
    """Find out before the work whether a result can be written."""
    import tempfile

    if path is None or str(path) == "-":
        return
    if path.is_dir():
        raise InputFileError(f"cannot write '{path}': it is a folder")
    if path.exists() and not path.is_file():
        return  # a device or pipe: written to, never replaced
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputFileError(f"cannot write '{path}': {error.strerror} ('{path.parent}')") from error


def _unit(unit: str) -> str | list[Span]:
    """A unit's name, or the character spans START-END,START-END."""
    if not unit[:1].isdigit():
        return unit
    try:
        return [_span(part, "-") for part in unit.split(",")]
    except ValueError:
        raise SettingError(f"cannot read the spans '{unit}': write them as 0-10,12-20") from None


def _target(target: str | None) -> Span | str | None:
    """A target as a range of output tokens START:END, or a text that occurs in the output."""
    if target is None:
        return None
    try:
        return _span(target, ":")
    except ValueError:
        return target


def _span(text: str, separator: str) -> Span:
    start, end = text.split(separator)
    return int(start), int(end)


def _band(text: str) -> tuple[float, float]:
    """A band LOW:HIGH."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise SettingError(f"cannot read the band '{text}': write it as 0.95:1.05") from None
    return low, high


def _setting(assignment: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON (numbers, true, false), else as text."""
    name, equals, value = assignment.partition("=")
    if not equals:
        raise SettingError(f"cannot read the setting '{assignment}': write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _progress() -> Any:
    """A context whose value shows progress on stderr if that is a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    @contextmanager
    def shown() -> Iterator[Any]:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)
            yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)

    return shown()


def _tell_data(dataset: Dataset) -> None:
    """What was kept of a data set, what was left out and why, and every malformed record."""
    typer.echo(dataset.summary, err=True)
    for problem in dataset.problems:
        typer.echo(f"  {problem}", err=True)


def _cell_progress() -> Any:
    """A context whose value shows how far a benchmark is, on stderr: a bar, or a line a minute where there is none."""
    import time
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    @contextmanager
    def shown() -> Iterator[Any]:
        console = Console(stderr=True)
        columns = (
            *(TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
            *(
                TextColumn("{task.fields[failed]} failed"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            ),
        )
        started = told = time.monotonic()
        with Progress(*columns, console=console, speed_estimate_period=600, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None, failed=0, rate="")

            def show(now: CellProgress) -> None:
                nonlocal told
                finished, seconds = now.done + now.failed, time.monotonic() - started
                rate = f"{60 * finished / seconds:.1f} a minute" if finished and seconds else ""
                bar.update(task, total=now.total, completed=finished, failed=now.failed, rate=rate)
                if not console.is_terminal and time.monotonic() - told >= 60:
                    told = time.monotonic()
                    typer.echo(f"{finished} of {now.total} cells, {now.failed} failed, {rate}", err=True)

            yield show

    return shown()


def _deliver(found: Sequence[Attribution], compared: bool, json_path: Path | None, html_path: Path | None) -> None:
    """Show and write what was found."""
    from jopa.attribution import comparison_json
    from jopa.report import comparison_html, to_html
    from jopa.terminal import comparison_table, to_terminal

    record = comparison_json(found) if compared else found[0].to_json()
    view = comparison_table(found) if compared else to_terminal(found[0])
    _hand_out(record, view, lambda: comparison_html(found) if compared else to_html(found[0]), json_path, html_path)
    for attribution in found:
        if not (attribution.details or {}).get("until_pr", {}).get("reached", True):
            typer.echo(f"jopa: {attribution.method['name']}: {attribution.stop}", err=True)


def _deliver_diagnosis(diagnosis: Diagnosis, json_path: Path | None, html_path: Path | None) -> None:
    """Show and write a diagnosis."""
    from jopa.report import diagnosis_html
    from jopa.terminal import diagnosis_view

    _hand_out(diagnosis.to_json(), diagnosis_view(diagnosis), lambda: diagnosis_html(diagnosis), json_path, html_path)


def _hand_out(
    record: str, view: RenderableType, page: Callable[[], str], json_path: Path | None, html_path: Path | None
) -> None:
    """Write the asked files and show the view, unless stdout carries JSON."""
    from rich.console import Console

    if str(json_path) == "-":
        sys.stdout.write(record + "\n")
    else:
        Console().print(view)
    written = []
    if json_path is not None and str(json_path) != "-":
        written.append(_write(json_path, record + "\n"))
    if html_path is not None:
        written.append(_write(html_path, page()))
    for path in written:
        typer.echo(f"Wrote {path}", err=True)


def _write(path: Path, text: str) -> Path:
    """Write a whole file or none: under a temporary name first, then renamed."""
    import os
    import tempfile

    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return path
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            Path(partial).chmod(0o666 & ~umask)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputFileError(f"cannot write '{path}': {error.strerror}") from error
    return path


if __name__ == "__main__":
    main()
