"""The `jopa` command: parse, call, print.

Exit codes: 0 done; 1 could not, or not all of it (one line on stderr, a traceback only with --debug); 2 wrong usage.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any, NoReturn

import typer

from jopa.cli.benchmarking import bench, gallery, report
from jopa.cli.detecting import detect
from jopa.cli.explaining import explain
from jopa.cli.options import with_debug
from jopa.cli.serving import methods, models, serve
from jopa.cli.showing import fail
from jopa.errors import JopaError
from jopa.reports.wording import visible

app = typer.Typer(
    help="Which parts of this prompt, taken together, made the model say this?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (explain, bench, report, gallery, detect, serve, methods, models):
    app.command()(with_debug(command))


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


def _refuse_usage(error: Any) -> NoReturn:
    """Say what is wrong with the words of the command, whatever characters they hold."""
    error.message = visible(error.message)
    error.show()
    sys.exit(error.exit_code)


def main() -> None:
    """Run the command line; see the module's exit codes."""
    debug = "--debug" in sys.argv
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every product
    try:
        sys.exit(app(standalone_mode=False))
    except JopaError as error:
        if debug:
            raise
        fail(str(error))
    except typer.Abort:
        fail("stopped")
    except Exception as error:  # a bug in jopa: still one line, and how to see the traceback
        if hasattr(error, "format_message"):  # wrong usage, of typer's own class or click's
            _refuse_usage(error)
        if debug:
            raise
        reason = " ".join(str(error).split())
        fail(f"unexpected {type(error).__name__}: {reason:.300}; run again with --debug for the traceback")
