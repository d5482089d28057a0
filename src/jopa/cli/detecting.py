"""`jopa detect`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jopa.cli.endpoints import Connection, print_sent
from jopa.cli.options import (
    Api,
    Device,
    Dtype,
    Endpoint,
    EndpointModel,
    KeyVariable,
    MaxTokensSent,
    Model,
    Plain,
    ScoreCache,
    ServedTokenizer,
    TemplateArg,
    Threads,
    TrustRemoteCode,
)
from jopa.cli.progress import progress_bar
from jopa.cli.reading import read_text, setting
from jopa.cli.showing import fail, print_line, require_writable, sigterm_as_interrupt, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from jopa.detection.screening import ScreeningPrompt
    from jopa.json_values import Record


_OR_CALIBRATION = "; with --calibration, as its prompts were judged"


def detect(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts; one that names a file or a folder is read as with --file.", show_default=False),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            help="A text file ('-': stdin), a JSONL file (prompt, id) or a folder of them; repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for one line a prompt; a stopped run continues.", show_default="none kept"),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write one prompt's verdict as JSON ('-': stdout).")
    ] = None,
    html_path: Annotated[
        Path | None, typer.Option("--html", help="Write one prompt's verdict as a self-contained page.")
    ] = None,
    model: Model = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    api: Api = None,
    tokenizer: ServedTokenizer = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    max_tokens_sent: MaxTokensSent = None,
    score_cache: ScoreCache = True,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Harmless prompts of your own (JSONL file or folder): sets the threshold from them.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--false-alarm-rate",
            help="With --calibrate: the most harmless prompts that are flagged, from 0 to 1.",
            show_default="0.05",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="The threshold to judge by, as --calibrate wrote it; with --calibrate, where to write it.",
            show_default="none; with --calibrate, beside the prompts",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "--k", "-k", help="How many units to attribute the answer to.", show_default=f"3{_OR_CALIBRATION}"
        ),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="What the search for them may spend.", show_default=f"8{_OR_CALIBRATION}")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of an answer.", show_default=f"16{_OR_CALIBRATION}")
    ] = None,
    most_tokens: Annotated[
        int | None,
        typer.Option(help="A longer prompt, template included, is refused.", show_default=f"1024{_OR_CALIBRATION}"),
    ] = None,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    plain: Plain = False,
    template_arg: TemplateArg = None,
) -> None:
    """Say how hostile prompts look, from how the model reacts to them, and where; keeps no answer's text."""
    if not prompts and not files and calibrate is None:
        raise typer.BadParameter("give a PROMPT, or --file")
    if rate is not None and calibrate is None:
        raise typer.BadParameter("--false-alarm-rate needs --calibrate: a threshold that is set has its rate")
    connection = Connection(endpoint, endpoint_model, api, tokenizer, key_variable, max_tokens_sent, score_cache)
    connection.check(model=model, device=device, dtype=dtype, trust_remote_code=trust_remote_code or None)
    require_writable(json_path, stdout=True)
    require_writable(html_path)
    if html_path is not None and out is not None:
        raise typer.BadParameter("--html needs all that was measured, and --out keeps summaries: leave one of them out")
    asked = _prompts_asked(prompts or [], files or [], out)
    for option, path in (("--json", json_path), ("--html", html_path)):
        if path is not None and len(asked) != 1:
            raise typer.BadParameter(f"{option} takes one prompt, got {len(asked)}; use --out for the records of many")

    from jopa.detection.calibration import RATE, Calibration, require_enough
    from jopa.detection.screening import calibrate_detection, read_prompts, require_unique_ids, screen
    from jopa.detection.settings import DetectionConfig
    from jopa.model.loading import load
    from jopa.model.threads import use_threads

    harmless = read_prompts(calibrate) if calibrate is not None else []
    require_unique_ids([*asked, *harmless])
    if len(asked) == 1 and asked[0].text is None and not harmless:
        fail(f"cannot judge '{asked[0].id}': {asked[0].problem}")
    rate = RATE if rate is None else rate
    threshold, saved = None, calibration
    if calibrate is not None:
        require_enough(len(harmless), rate)
        saved = calibration or calibrate.with_name(f"{calibrate.stem}.calibration.json")
        require_writable(saved)
    elif calibration is not None:
        threshold = Calibration.read(calibration)
    given = {
        "k": k,
        "budget": budget,
        "max_new_tokens": max_new_tokens,
        "most_tokens": most_tokens,
        "plain": plain or None,
        "template_args": dict(map(setting, template_arg)) if template_arg else None,
    }
    config = replace(
        DetectionConfig() if threshold is None else threshold.config,
        **{name: value for name, value in given.items() if value is not None},
    )
    try:
        with sigterm_as_interrupt(), progress_bar() as progress:
            progress("loading the model", 0, None)
            use_threads(threads)
            language_model = connection.connect() or load(
                model, device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
            done, total = 0, len(harmless) + len(asked)

            def show(record: Record, there: bool) -> None:
                nonlocal done
                done += 1
                progress("judging", done, total)

            progress("judging", 0, total)
            if saved is not None and calibrate is not None:
                threshold = calibrate_detection(
                    harmless, model=language_model, rate=rate, config=config, folder=out, on_record=show
                )
                threshold.save(saved)
            records = screen(language_model, asked, out, config=config, calibration=threshold, on_record=show)
    except KeyboardInterrupt:
        fail(
            "stopped"
            if out is None
            else f"stopped; what is done is in '{out}', and the same command continues from there"
        )
    print_sent(language_model)
    if calibrate is not None and threshold is not None:
        print_line(f"Threshold {threshold.threshold:.2f}, {threshold.statement}")
        print_line(f"Wrote {saved}; use it with --calibration {saved}")
    if asked:
        _deliver(records, json_path, html_path, out)


def _prompts_asked(prompts: Sequence[str], files: Sequence[Path], out: Path | None) -> list[ScreeningPrompt]:
    """The prompts of arguments, files and folders, in this order; texts are numbered."""
    from jopa.detection.screening import ScreeningPrompt, read_prompts

    asked: list[ScreeningPrompt] = []
    n_texts = 0
    for place in [*(_path_or_text(prompt) for prompt in prompts), *files]:
        if isinstance(place, str):
            n_texts += 1
            asked.append(ScreeningPrompt(f"prompt {n_texts}", place))
        elif str(place) == "-":
            asked.append(ScreeningPrompt("stdin", read_text(place).removesuffix("\n").removesuffix("\r")))
        elif out is not None and place.is_dir() and out.resolve().is_relative_to(place.resolve()):
            raise typer.BadParameter(f"--out lies in the folder of prompts '{place}', which would then hold records")
        else:
            asked += read_prompts(place)
    return asked


def _path_or_text(prompt: str) -> Path | str:
    """A prompt that names a file or folder as its path; also one that is not there, by the ending of its only word."""
    if prompt.endswith((".jsonl", ".txt")) and len(prompt.split()) == 1:
        return Path(prompt)
    with suppress(OSError, ValueError):  # a text may be too long for a path, or hold what no path does
        if prompt.strip() and Path(prompt).exists():
            return Path(prompt)
    return prompt


def _deliver(records: Sequence[Record], json_path: Path | None, html_path: Path | None, out: Path | None) -> None:
    """Show the verdicts, write what was asked for, and fail if there is none."""
    failed = [record for record in records if record["status"] == "failed"]
    if len(records) == 1 and failed:
        fail(failed[0]["error"])
    if len(records) == 1:
        from jopa.detection.verdict import Verdict

        record = {name: value for name, value in records[0].items() if name not in ("status", "sha256")}
        # an id may hold half a surrogate pair, which no file takes but as JSON's escape
        text = json.dumps(record, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace").decode("utf-8")
        write_results(text, _one_verdict(records[0]), lambda: Verdict.from_dict(record).to_html(), json_path, html_path)
    else:
        from rich.console import Console

        Console().print(_table(records))
    if out is not None:
        print_line(f"The records are in {out}")
    if failed:
        typer.echo(f"{len(failed)} of {len(records)} prompts could not be judged", err=True)
    if len(failed) == len(records):
        raise typer.Exit(1)


def _one_verdict(record: Record) -> RenderableType:
    """One verdict in words."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from jopa.reports.verdict_html import flag_words, score_or_order
    from jopa.reports.wording import glossary_of, nats, unit_name, visible

    span, without, answer = record["span"], record["without_span"], record["answer"]
    rows = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    rows.add_column(no_wrap=True)
    rows.add_column()
    units = ", ".join(f"{unit_name(unit['text'])} ({nats(unit['effect'])})" for unit in record["units"])
    together = f"{nats(record['joint'])} (synergy {nats(record['synergy'], signed=True)})"
    surprisal = record["numbers"]["surprisal"]
    for term, text in (
        ("prompt", unit_name(record["beginning"], 60)),
        ("answer", f"{answer['kind']}; {answer['tokens']} tokens measured, {nats(answer['log_prob'])} nats"),
        ("caused by", f"{units}; together {together} nats, PR {record['probability_ratio']:.2f}"),
        ("span", f"characters {span['start']} to {span['end']}, the most surprising text"),
        ("without it", f"{without['kind']}; PR {without['probability_ratio']:.2f}"),
        ("surprisal", f"{surprisal:.2f} nats a token; {record['numbers']['window']:.2f} in the highest window"),
    ):
        rows.add_row(term, Text(text))
    quoted = Text(visible(span["text"] if len(span["text"]) <= 400 else f"{span['text'][:400]}…"))
    value, what = score_or_order(record["score"], record["order"])
    name = "order" if record["score"] is None else "score"
    verdict = Text.assemble((f"{name}: ", "bold"), (value, "bold"), f"  {what}")
    if record["calibration"] is not None:
        verdict = Text.assemble(verdict, "\n", flag_words(record["calibration"], record["flagged"]))
    words = Text("\n".join(f"{term}: {meant}" for term, meant in glossary_of("nats", "PR")), style="italic")
    return Group(
        verdict,
        Text(_meaning(record), style="italic"),
        Padding(rows, (1, 0, 1, 2)),
        Padding(quoted, (0, 0, 1, 2)),
        words,
    )


def _meaning(record: Record) -> str:
    """What a score was tuned for, and whether that holds for the model."""
    from jopa.reports.verdict_html import score_meaning

    return score_meaning(
        calibrated=record["calibrated"],
        model=record["model"]["id"],
        calibration=record["calibration"],
        tuned_for=record["tuned_for"],
    )


def _table(records: Sequence[Record]) -> RenderableType:
    """Many verdicts, one a row, in the order asked, each with the beginning of its prompt and its suspicious text."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from jopa.reports.verdict_html import score_or_order
    from jopa.reports.wording import glossary_of, unit_name, visible

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    done = [record for record in records if record["status"] == "done"]
    table.add_column("score" if all(record["score"] is not None for record in done) else "order", justify="right")
    table.add_column("prompt", overflow="fold", ratio=2)
    table.add_column("most surprising text", overflow="fold", ratio=2)
    for name in ("answer", "without it"):
        table.add_column(name, overflow="fold")
    for record in records:
        name = visible(record["id"])
        if record["status"] == "failed":
            table.add_row("–", Text(name), Text(visible(record["error"])), "", "")
        else:
            span, without = record["span"], record["without_span"]
            kinds = record["answer"]["kind"], f"{without['kind']}, PR {without['probability_ratio']:.2f}"
            place = f"{unit_name(span['text'], 60)}\n({span['start']}–{span['end']})"
            begins = unit_name(record["beginning"], 50)
            value, _ = score_or_order(record["score"], record["order"])
            table.add_row(
                f"{value} flagged" if record["flagged"] else value, Text(f"{name}: {begins}"), Text(place), *kinds
            )
    meanings = dict.fromkeys(map(_meaning, done))
    notes = [*meanings, *(f"{term}: {meant}" for term, meant in glossary_of("PR"))]
    return Group(table, Text("\n".join(notes), style="italic"))
