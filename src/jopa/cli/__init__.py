"""The `jopa` command: parse, call, print.

Exit codes: 0 done; 1 could not, or not all of it; 2 wrong usage. What went wrong is one line on stderr, under --debug
with a traceback.
"""

from __future__ import annotations

import errno
import logging
import sys
from typing import Annotated, Any, NoReturn

import typer

from jopa.cli.benchmarking import bench, gallery, report
from jopa.cli.detecting import detect
from jopa.cli.explaining import explain
from jopa.cli.options import with_debug
from jopa.cli.serving import methods, models, serve
from jopa.cli.showing import fail, print_line, show_what_can_be
from jopa.errors import JopaError

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
    """End the command with one line that says what is wrong with its words, and where the right ones are listed."""
    command = error.ctx.command_path if error.ctx is not None else "jopa"
    said = " ".join(error.format_message().removeprefix("Invalid value: ").rstrip(".").split())
    print_line(f"jopa: {said}; see {command} --help")
    sys.exit(error.exit_code)


def main() -> None:
    """Run the command line; see the module's exit codes."""
    debug = "--debug" in sys.argv
    show_what_can_be()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every product
    try:
        sys.exit(app(standalone_mode=False, prog_name="jopa"))
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
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fail("cannot write: no space is left on the device; make room, or write somewhere else")
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            fail(f"cannot use '{error.filename}': {error.strerror}; give a shorter name")
        reason = " ".join(str(error).split())
        fail(f"unexpected {type(error).__name__}: {reason:.300}; run again with --debug for the traceback")
