"""`jopa bench`, `report` and `gallery`: the commands around a benchmark run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jopa.cli.endpoints import Connection
from jopa.cli.options import (
    Api,
    Endpoint,
    EndpointModel,
    KeyVariable,
    Plain,
    ServedTokenizer,
    TemplateArg,
    Threads,
    TrustRemoteCode,
)
from jopa.cli.progress import cell_progress
from jopa.cli.reading import setting
from jopa.cli.showing import fail, print_line, sigterm_as_interrupt
from jopa.errors import SettingError
from jopa.reports.wording import one_line

if TYPE_CHECKING:
    from jopa.datasets.examples import Dataset


def bench(
    experiment: Annotated[Path, typer.Argument(help="A TOML file; see 'experiments/'.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of its records; a run continues where it stopped.", show_default="runs/EXPERIMENT"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The most prompts a data set.", show_default="the file's")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="One model instead of the file's: hub id, folder, .gguf file, or 'bundled'."),
    ] = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    api: Api = None,
    tokenizer: ServedTokenizer = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    trust_remote_code: TrustRemoteCode = False,
    plain: Plain = False,
    template_arg: TemplateArg = None,
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
    threads: Threads = None,
    worker_cpus: Annotated[int | None, typer.Option(help="Processors of each Ray worker.", show_default="1")] = None,
    prompts: Annotated[
        int,
        typer.Option(
            "--together", help="Prompts that this process, or each worker, works on at a time; they share forwards."
        ),
    ] = 1,
) -> None:
    """Run an experiment: every method on every prompt, one record a cell; continues where it stopped."""
    Connection(endpoint, endpoint_model, api, tokenizer, key_variable, None, True).check(model=model)
    from jopa.benchmark.experiment import read_experiment, with_model_settings
    from jopa.benchmark.model_spec import ModelSpec
    from jopa.benchmark.ray_map import RayMap
    from jopa.benchmark.run import batched_map, run_bench, serial_map
    from jopa.model.threads import use_threads

    for option, value in (("--workers", workers), ("--worker-cpus", worker_cpus)):
        if value is not None and not (ray or ray_address):
            raise typer.BadParameter(f"{option} needs --ray")
    if threads is not None and (ray or ray_address):
        raise typer.BadParameter("--threads is for this process: give Ray's workers --worker-cpus")
    files = {}
    for item in data or []:
        name, equals, path = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"cannot read --data '{item}': write NAME=FILE.jsonl")
        files[name] = path
    served = None
    if endpoint is not None and endpoint_model is not None:
        served = ModelSpec(
            Path(endpoint_model).name,
            endpoint_model,
            endpoint=endpoint,
            api=api,
            tokenizer=tokenizer,
            key_variable=key_variable,
        )
    wanted = read_experiment(
        experiment, limit=limit, model=served or model, data=files, prefill=prefill, max_new_tokens=max_new_tokens
    )
    wanted = with_model_settings(
        wanted,
        plain=plain,
        template_args=dict(map(setting, template_arg or [])),
        trust_remote_code=trust_remote_code,
    )
    folder = out or Path("runs", experiment.stem)
    if ray or ray_address:
        mapper = RayMap(ray_address, workers, 1 if worker_cpus is None else worker_cpus, prompts)
    else:
        use_threads(threads)
        mapper = serial_map if prompts == 1 else batched_map(prompts)
    try:
        with sigterm_as_interrupt(), cell_progress() as on_progress:
            outcome = run_bench(
                wanted,
                folder,
                sets=[name.strip() for name in (sets or "").split(",") if name.strip()],
                methods=[label.strip() for label in (only or "").split(";") if label.strip()],
                retry_failed=retry_failed,
                mapper=mapper,
                on_data=_print_data,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        fail(f"stopped; what is done is in '{folder}', and the same command continues from there")
    print_line(f"{outcome.done} cells done, {outcome.failed} failed, {outcome.before} were there already")
    if outcome.left:
        print_line(f"{outcome.left} cells failed at an earlier start; --retry-failed does them again")
    print_line(f"See them: jopa report {folder}")


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a benchmark run.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes.", show_default="the run's own folder, report/")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="What LaTeX tables show, NAME,NAME,… in this order.", show_default="all")
    ] = None,
    decimals: Annotated[
        int | None, typer.Option(help="Decimals in LaTeX tables.", show_default="what a column needs")
    ] = None,
) -> None:
    """Turn the records of a benchmark run into tables, figures and a page; runs no model."""
    from jopa.evaluation.metrics import METRICS
    from jopa.reports.benchmark_report import write_report
    from jopa.reports.wording import visible

    for fault in METRICS.faults.values():
        print_line(f"jopa: {fault}")
    names = list(dict.fromkeys(name.strip() for name in (metrics or "").split(",") if name.strip()))
    if metrics is not None and not names:
        raise SettingError("--metrics names none; give one or more, as --metrics pr,kl, or leave it out for all")
    for path in write_report(folder, out, metrics=names, decimals=decimals):
        typer.echo(visible(str(path)))


def gallery(
    folder: Annotated[Path, typer.Argument(help="The folder of a benchmark run.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the gallery goes.", show_default="the run's own folder, gallery/")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Two methods, LABEL;LABEL.", show_default="the baseline and leave-one-out"),
    ] = None,
) -> None:
    """Show what two methods chose on the same prompts, and the answers without it; runs no model."""
    from jopa.reports.gallery import write_gallery
    from jopa.reports.wording import visible

    chosen = None if methods is None else [label.strip() for label in methods.split(";") if label.strip()]
    for path in write_gallery(folder, out, methods=chosen):
        typer.echo(visible(str(path)))


def _print_data(dataset: Dataset) -> None:
    """What was kept of a data set, what was left out and why, and every malformed record."""
    print_line(dataset.summary)
    for problem in dataset.problems:
        typer.echo(f"  {one_line(problem)}", err=True)
