"""A table of things by name: built in, registered by a call, or offered by installed packages.

    name → built-in | registered in this process | entry point `name = "package.module:attribute"` of a group

Entry points are those of the Python packaging standard
(https://packaging.python.org/en/latest/specifications/entry-points/). A package's code is imported when one of its
names is asked for, or when somebody lists the table; looking up a built-in name imports nothing.

A plug-in that cannot be used is left out of the listing, and `faults` has one line that says why; whoever asks for it
by name gets that line as an error.

Knows names and what a caller checks, nothing of methods, metrics and data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from jopa.errors import SettingError

T = TypeVar("T")
Check = Callable[[str, Any], T]
"""Turns what a plug-in offers under a name into an entry of the table, or raises `SettingError`."""


class Registry(Mapping[str, T], Generic[T]):
    """A table of things by name that other packages can add to.

    Args:
        what: a word for an entry, as messages use it: "method".
        group: the entry-point group of installed packages: "jopa.methods".
        builtin: the entries of jopa itself, which no plug-in can replace.
        check: turns what a plug-in offers into an entry; it raises `SettingError` with what is wrong.
        name_of: the name of a thing that is registered by a call.
    """

    def __init__(
        self, what: str, group: str, builtin: Mapping[str, T], check: Check[T], name_of: Callable[[Any], Any]
    ) -> None:
        self.what = what
        self.group = group
        self.builtin: Mapping[str, T] = MappingProxyType(dict(builtin))
        self._check = check
        self._name_of = name_of
        self._registered: dict[str, T] = {}
        self._found: dict[str, list[EntryPoint]] | None = None
        self._loaded: dict[str, T] = {}
        self._faults: dict[str, str] = {}

    def register(self, thing: Any) -> Any:
        """Add something for this process, under its own name; usable as a decorator.

        A thing of the same name, module and qualified name replaces the one before, so that a notebook's cell can run
        twice.

        Args:
            thing: what the table holds: a class of methods, a metric, or a data set's source.

        Returns:
            The thing itself.

        Raises:
            SettingError: it is no such thing, or the name is taken.
        """
        name = self._name_of(thing)
        if not isinstance(name, str):
            raise SettingError(f"cannot register {thing!r:.80} as a {self.what}: it has no name")
        if name in self.builtin or (name in self._registered and not _same_source(thing, self._registered[name])):
            raise SettingError(f"there is a {self.what} '{name}' already; choose another name")
        self._registered[name] = self._check(name, thing)
        return thing

    def forget(self, name: str) -> None:
        """Take back what `register` added; nothing happens if there is no such name."""
        self._registered.pop(name, None)

    def reload(self) -> None:
        """Look again for what installed packages offer, as after an installation in a running notebook."""
        self._found = None
        self._loaded.clear()
        self._faults.clear()

    def origin(self, name: str) -> str | None:
        """The package and version that a name comes from; None for what is built in or was registered by a call."""
        if name in self.builtin or name in self._registered:
            return None
        points = self._entry_points().get(name)
        return _package(points[0]) if points else None

    @property
    def plugins(self) -> dict[str, T]:
        """The entries that are not built in and that can be used."""
        return {name: self[name] for name in self if name not in self.builtin}

    @property
    def faults(self) -> dict[str, str]:
        """One line for each plug-in of an installed package that cannot be used, by name."""
        list(self)
        return dict(self._faults)

    def __getitem__(self, name: str) -> T:
        """The entry of a name.

        Raises:
            KeyError: there is none.
            SettingError: there is one, and it cannot be used.
        """
        if name in self.builtin:
            return self.builtin[name]
        if name in self._registered:
            return self._registered[name]
        if name not in self._entry_points():
            raise KeyError(name)
        if name not in self._loaded and name not in self._faults:
            self._load(name)
        if name in self._faults:
            raise SettingError(self._faults[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        """The names that can be used: built in, registered, then those of packages in alphabetical order."""
        yield from self.builtin
        yield from self._registered
        for name in sorted(self._entry_points()):
            if name not in self.builtin and name not in self._registered:
                if name not in self._loaded and name not in self._faults:
                    self._load(name)
                if name in self._loaded:
                    yield name
            elif name in self.builtin:
                self._load(name)  # notes the fault: a built-in name cannot be taken

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Whether a name is in the table, also if its plug-in is faulty."""
        return name in self.builtin or name in self._registered or name in self._entry_points()

    def __repr__(self) -> str:
        return f"<{self.what}s of jopa: {', '.join(self)}>"

    def get_or_refuse(self, name: str) -> T:
        """The entry of a name.

        Raises:
            SettingError: there is none, or it cannot be used; the message lists the names there are, or says why.
        """
        if name not in self:
            raise SettingError(f"unknown {self.what} '{name}': choose one of {', '.join(self)}")
        return self[name]

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        """The entry points of installed packages by name; an identical one that is found twice counts once."""
        if self._found is None:
            self._found = {}
            for point in entry_points(group=self.group):
                others = self._found.setdefault(point.name, [])
                if all((point.value, _package(point)) != (other.value, _package(other)) for other in others):
                    others.append(point)
        return self._found

    def _load(self, name: str) -> None:
        """Import an entry point and check it; what is wrong becomes a fault."""
        points = self._entry_points()[name]
        packages = " and ".join(_package(point) for point in points)
        try:
            if name in self.builtin:
                raise SettingError("jopa has this name itself; the package must choose another")
            if len(points) > 1:
                raise SettingError("the name is offered more than once; uninstall one of them")
            self._loaded[name] = self._check(name, points[0].load())
        except (Exception, SystemExit) as error:  # whatever the package's own code raises when it is imported
            reason = str(error) if isinstance(error, SettingError) else f"{type(error).__name__}: {error}"
            self._faults[name] = (
                f"{self.what} '{name}' of {packages} cannot be used ({points[0].value}): {' '.join(reason.split())}"
            )


def imported(path: str) -> Any:
    """The attribute that "package.module:attribute" names, imported now.

    Raises:
        SettingError: the text is no such path, or the import fails.
    """
    module, colon, attribute = path.partition(":")
    if not (colon and module and attribute.isidentifier()):
        raise SettingError(f"cannot read '{path}': write PACKAGE.MODULE:NAME")
    try:
        return getattr(import_module(module), attribute)
    except AttributeError as error:
        raise SettingError(f"module '{module}' has no '{attribute}'") from error
    except (Exception, SystemExit) as error:  # whatever somebody's module raises when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SettingError(f"cannot import '{module}' ({reason}); is its package installed here?") from error


def _package(point: EntryPoint) -> str:
    """The name and version of the package that offers an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"


def _same_source(first: Any, second: Any) -> bool:
    """Whether two things were defined in the same place."""
    places = [(getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)) for thing in (first, second)]
    return places[0] == places[1] and None not in places[0]
