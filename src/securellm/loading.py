"""Imports what a serving process stands on, without the parts that it never uses: a tenth of its memory.

Quart brings a template engine, a test client, a command line and asyncio; Hypercorn HTTP/2 and its own processes;
prometheus_client a web server; SQLAlchemy asyncio and whatever packages are installed. They are imported at the top of
modules that we need, for others. While these libraries are imported here, such a module is left out: whoever imports
it gets a stand-in. Afterwards the stand-ins are taken away again, so that an import of the same module from anywhere
else (Redis's driver, for one, needs asyncio) finds the real one.

A stand-in is no mock. What is called of it after all is imported then and does what it always did; only a class that
was derived from it cannot be made any more, and says so. What has been imported before is never left out.

Everything here happens before there are threads, so that no other import can fall in between.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, ClassVar

from securellm.config.tree import Config

# What is left out, with everything below it. Whatever a library uses of it while it is imported, or while an
# application is made, is here with it: the same, or as much as is needed.
LEFT_OUT: dict[str, dict[str, Any]] = {
    # For those who run on it: Quart's and Hypercorn's other half, SQLAlchemy's asynchronous engines.
    "asyncio": {"iscoroutine": inspect.iscoroutine, "iscoroutinefunction": inspect.iscoroutinefunction},
    "aiofiles": {},
    "hypercorn.asyncio": {},
    "sqlalchemy.dialects.sqlite.aiosqlite": {},
    "sqlalchemy.dialects.sqlite.pysqlcipher": {},
    # HTTP/2 and websockets: connections speak HTTP/1.1 here.
    "h2": {},
    "hypercorn.protocol.h2": {},
    "hypercorn.protocol.ws_stream": {},
    "wsproto": {},
    # Templates, sessions in cookies, a command line, test clients, a server for development.
    "flask.cli": {"AppGroup": types.SimpleNamespace},
    "flask.templating": {},
    "http.cookiejar": {},
    "itsdangerous": {},
    "jinja2": {},
    "quart.cli": {"AppGroup": types.SimpleNamespace},
    "quart.testing": {},
    "quart_trio.testing": {},
    "werkzeug.serving": {},
    "werkzeug.test": {},
    # Hypercorn's own processes and files of logging.
    "logging.config": {},
    "multiprocessing": {},
    # Serving and pushing metrics by itself.
    "http.server": {},
    "socketserver": {},
    "urllib.request": {},
    "wsgiref.simple_server": {},
    # Looking for dialects that other packages bring, and how Python was built: a table of a megabyte for one answer.
    "importlib.metadata": {},
    "sysconfig": {"get_config_var": {"Py_GIL_DISABLED": int("t" in sys.abiflags)}.get},
}

# What is imported meanwhile, and what they import.
LIBRARIES = ("prometheus_client", "sqlalchemy", "hypercorn.trio", "quart", "quart_trio")
FILE_STORE = ("sqlalchemy.dialects.sqlite",)


def load_libraries(config: Config) -> None:
    """Import them. To be called before anything of ours that imports one, and before there are threads."""
    store = FILE_STORE if config.database.server is None else ()
    with leave_out(LEFT_OUT):
        for name in (*LIBRARIES, *store):
            importlib.import_module(name)


@contextmanager
def leave_out(names: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Within it, an import of one of these modules, or of one below, gives a stand-in; with what is given for it."""
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _take_away()


class StandIn(types.ModuleType):
    """A module that was left out: has every name that is asked for, as what imports the real one if it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # there may be modules below it, which are left out as well

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # An `except` must find an exception, also when what it waits for can never be raised.
        base = Exception if name.endswith(("Error", "Exception", "BadSignature")) else object
        made = type(name, (_Late, base), {"__module__": self.__name__, "_left_out": f"{self.__name__}:{name}"})
        setattr(self, name, made)
        return made


class _Late:
    """What a stand-in has under a name: calling it imports what it stands for, and calls that."""

    _left_out: ClassVar[str]

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        if "_left_out" not in cls.__dict__:  # a library derived it while it was imported
            raise RuntimeError(
                f"{cls.__module__}.{cls.__name__} needs {cls._left_out}, which was left out at the start"
            )
        module, _, name = cls._left_out.partition(":")
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    def __class_getitem__(cls, item: object) -> Any:
        return cls  # in an annotation


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: Mapping[str, Mapping[str, Any]]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = fullname
        while parent not in self._names:
            parent, dot, _ = parent.rpartition(".")
            if not dot:
                return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(self._names.get(module.__name__, {}))


def _take_away() -> None:
    """Forget the stand-ins as modules: the next import of such a name is a real one."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, StandIn):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is module:
                delattr(sys.modules[parent], child)
