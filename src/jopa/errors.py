"""The errors a caller of jopa can meet, in one tree.

JopaError                  anything jopa refuses or cannot do; the command line prints its one line
├── SettingError           a setting is out of its range, or two settings do not fit (also a ValueError)
├── PromptError            this prompt cannot be explained as asked (also a ValueError)
├── ModelError             a model cannot be found, loaded or used
├── ScoringError           a model gave no score, a method no usable answer, or memory ran out at batch size one
├── StoppedError           somebody who watches the work has ended it
│   └── LimitError         the tokens that may be sent to a server are spent
└── InputFileError         a file cannot be read, written or understood

Each message says what is wrong and what to do about it.
"""

from importlib.util import find_spec


class JopaError(Exception):
    """Base of every error that jopa raises on purpose."""


class SettingError(JopaError, ValueError):
    """A setting is out of its legal range, or two settings contradict each other."""


class PromptError(JopaError, ValueError):
    """A prompt cannot be turned into ids and units as asked."""


class ModelError(JopaError):
    """A model cannot be found, loaded or used for this task."""


class ScoringError(JopaError):
    """Scores or a method's answer cannot be trusted (NaN, units that are not there), or could not be computed."""


class StoppedError(JopaError):
    """The work was ended from outside: a callback raised this, and nothing is left half done."""


class LimitError(StoppedError):
    """A request would send more tokens to a server than are allowed (`max_tokens_sent`)."""


class InputFileError(JopaError):
    """A file cannot be read, written or understood."""


def require_package(
    what: str, package: str, extra: str, *, module: str | None = None, error: type[JopaError] = SettingError
) -> None:
    """Refuse work whose optional package is not installed; does not import it.

    Args:
        what: what needs the package, as messages name it.
        package: its name on PyPI.
        extra: the extra of jopa that brings it.
        module: the name that it is imported by, where that is another one.
        error: the kind of error to raise.

    Raises:
        JopaError: of this kind; the message says which command installs the package.
    """
    if find_spec(module or package) is None:
        raise error(f"{what} needs the package {package}: pip install 'jopa[{extra}]'")


def reason_of(error: BaseException) -> str:
    """What an exception of other code says, on one line; with the name of its type where the text alone says little."""
    said = " ".join(str(error).split())
    if said and isinstance(error, OSError | ValueError | ImportError | RuntimeError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
