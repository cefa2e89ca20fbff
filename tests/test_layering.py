"""The shape of the source tree: who may import whom, where nurseries open, how long a module may be.

Reads the sources, imports nothing of them. A rule that has to give way is changed here, with its reason.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "securellm"

# Data goes one way, edge -> gateway -> upstream, and nothing imports upward: what each part may import of the others.
BOTTOM = {"errors", "chat"}
PURE_CORE = BOTTOM | {"wire", "_fast"}
LAYERS: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "_fast": BOTTOM,
    "chat": {"errors"},
    "wire": {"errors", "chat", "_fast"},
    "config": {"__init__", "errors"},
    "providers": BOTTOM | {"__init__", "wire", "config"},
    "tokens": PURE_CORE,
    "pricing": PURE_CORE | {"config"},  # what a body may cost is told from its weight
    "routing": BOTTOM | {"config", "providers"},
    "accounts": BOTTOM | {"config"},
    "limits": BOTTOM | {"_fast", "accounts", "config", "redis_link"},
    "redis_link": BOTTOM | {"config"},
    "cache": PURE_CORE | {"config", "redis_link"},
    "ids": BOTTOM,
    "telemetry": BOTTOM | {"config"},
    "workers": BOTTOM | {"config"},
    "loading": {"config"},
    "upstream": PURE_CORE | {"__init__", "config", "providers", "routing", "telemetry", "permit", "tokens"},
    "audit": BOTTOM | {"_fast", "config", "accounts", "pricing"},
    "announcer": BOTTOM | {"accounts", "ledger"},
    "discovery": BOTTOM | {"accounts", "providers", "routing", "upstream", "serving"},
    "serving": BOTTOM | {"audit", "config", "ledger", "limits", "pricing", "providers", "routing", "upstream"},
    "commons": BOTTOM | {"accounts", "audit", "cache", "config", "limits", "redis_link", "telemetry", "workers"},
    "candidates": PURE_CORE | {"accounts", "holdings", "pricing", "routing", "serving"},
    "planning": BOTTOM | {"accounts", "audit", "candidates", "limits", "pricing", "routing", "serving"},
    "holdings": BOTTOM | {"cache", "limits", "routing"},
    "recall": PURE_CORE | {"cache", "permit", "routing", "settlement", "upstream"},
    # It walks the way of a request beside the gateway: what the gateway imports for that, it imports, too.
    "explaining": PURE_CORE
    | {
        "accounts",
        "audit",
        "candidates",
        "config",
        "holdings",
        "intake",
        "limits",
        "pricing",
        "providers",
        "routing",
        "serving",
        "upstream",
    },
    "under_way": BOTTOM | {"gateway", "ledger", "permit", "workers"},
    "intake": PURE_CORE | {"config", "limits", "tokens"},
    "ledger": BOTTOM | {"_fast", "audit", "routing", "telemetry"},
    "permit": PURE_CORE | {"ids", "audit", "config", "providers", "routing", "holdings", "ledger"},
    "settlement": PURE_CORE | {"permit", "tokens"},
    "gateway": PURE_CORE
    | {
        "ids",
        "audit",
        "config",
        "pricing",
        "providers",
        "routing",
        "accounts",
        "limits",
        "upstream",
        "ledger",
        "permit",
        "settlement",
        "telemetry",
        "intake",
        "cache",
        "candidates",
        "holdings",
        "planning",
        "recall",
        "serving",
    },
    "runtime": PURE_CORE
    | {
        "__init__",
        "config",
        "providers",
        "routing",
        "accounts",
        "limits",
        "telemetry",
        "upstream",
        "audit",
        "pricing",
        "ledger",
        "announcer",
        "commons",
        "under_way",
        "redis_link",
        "discovery",
        "serving",
        "gateway",
        "workers",
    },
    "web": PURE_CORE
    | {"__init__", "accounts", "ids", "config", "providers", "routing", "telemetry", "gateway", "runtime"},
    # The compiled edge: `server` alone knows it, so that it can be deleted.
    "express": PURE_CORE | {"ids", "config", "providers", "telemetry", "upstream", "gateway", "runtime", "web"},
    "server": PURE_CORE | {"config", "telemetry", "upstream", "gateway", "runtime", "web", "express", "workers"},
    "cli": BOTTOM
    | {
        "__init__",
        "wire",
        "config",
        "providers",
        "pricing",
        "audit",
        "routing",
        "accounts",
        "telemetry",
        "runtime",
        "web",
        "server",
        "workers",
        "discovery",
        "explaining",
        "loading",
    },
}

# A library is known to few places, so that replacing it is a small change.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "httpx": ("upstream.httpx_client",),
    "httpcore": ("upstream.httpx_client", "upstream.network"),
    "hypercorn": ("server", "web", "express.door"),
    "quart": ("web",),
    "quart_trio": ("web",),
    "werkzeug": ("web",),
    "h11": ("server", "web"),
    "sqlalchemy": ("accounts", "audit.index"),
    "alembic": ("accounts",),
    "psycopg": ("accounts",),
    "cryptography": ("audit",),
    "prometheus_client": ("telemetry",),
    "truststore": ("upstream",),
    "redis": ("redis_link.servers",),
    "hiredis": (),  # redis-py finds it by itself
    "click": ("cli",),
    "asyncio": (),  # we run on Trio
    "anyio": (),
    "requests": (),
}

# What waits, asks the clock, rolls dice or touches the machine.
IMPURE = {
    "click", "ctypes", "datetime", "hypercorn", "httpcore", "httpx", "io", "logging", "mmap", "os",
    "prometheus_client", "quart", "quart_trio", "random", "secrets", "select", "shutil", "signal", "socket",
    "sqlalchemy", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "trio", "urllib.request", "uuid",
}  # fmt: skip
# How a file would be touched by a module that imports only pathlib's types.
FILE_CALLS = re.compile(
    r"(?<![.\w])open\(|\.(open|exists|stat|is_file|is_dir|iterdir|mkdir|(read|write)_(text|bytes))\("
)
MUST_BE_PURE = (
    "chat", "wire.*", "routing", "providers.*", "limits.quota", "limits.limiter", "limits.process", "limits.showing",
    "limits.in_flight", "limits.purse", "limits.lease", "accounts.bounds", "accounts.windows", "accounts.leases",
    "pricing.bound", "limits.slices", "limits.places", "limits.share", "limits.leased_scripts", "redis_link.url",
    "redis_link.breaker", "cache.service", "cache.key", "cache.gather", "cache.replay", "cache.keeping", "tokens",
)  # fmt: skip
# A pure module may lean on these besides pure ones: the error tree, the twins (which choose by one environment
# variable when first imported), the frozen settings and the routes, which only hold their views.
PURE_ENOUGH = ("errors", "_fast", "_fast.*", "config", "config.*", "web.routes", "__init__")

NURSERIES: set[str] = {
    "runtime",  # the one for everything long-lived
    "commons",  # the leases on limits, beside those on budgets
    "server",  # serving, beside the signal that ends it
    "web.listening",  # the connections
    "web.asgi",  # one a request: its work, beside the news that the caller has gone
    "upstream.pump",  # one a stream: reading from the provider, beside the timers of who waits for it
    "workers.channel",  # one a question to all workers
    "discovery",  # one a sync: every provider's list at once
}

LINES_AT_MOST = 600
# The verifier is handed to auditors as one file, with its own Ed25519 and its own reader of notes.
# The table of settings is data, a row a setting.
# The reactor and its channels call each other within every read and write; heads and chunks of HTTP/1.1 are read by the
# same tables of characters.
LONGER = {"audit.verify": 950, "config.table": 800, "_fast.reactor_c": 1050, "_fast.http1_c": 750}
LINES_WITHOUT_A_REASON = 400


class Module(NamedTuple):
    name: str  # dotted, without the package: "wire.sse"; a package's own file is its name: "wire"
    path: Path
    tree: ast.Module
    text: str

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""


def _modules() -> list[Module]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        if len(parts) > 1 and parts[-1] == "__init__":
            parts.pop()
        text = path.read_text()
        found.append(Module(".".join(parts), path, ast.parse(text), text))
    return found


MODULES = _modules()
NAMES = {module.name for module in MODULES}


def _imports(module: Module, *, for_types: bool = True) -> Iterator[str]:
    """Every imported name, absolute: `from a import b` gives `a.b` where that is a module of ours, else `a`.

    Without `for_types` what stands under `if TYPE_CHECKING` is left out: it is never run.
    """
    tree = module.tree if for_types else _WithoutTypes().visit(ast.parse(module.text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name.removeprefix("securellm.") in NAMES else node.module


class _WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse
        return self.generic_visit(node)


def _own_imports(module: Module, *, for_types: bool = True) -> set[str]:
    """The modules of this project that it imports, named as in `Module.name`."""
    return {
        name.removeprefix("securellm.") if name != "securellm" else "__init__"
        for name in _imports(module, for_types=for_types)
        if name == "securellm" or name.startswith("securellm.")
    }


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])) for pattern in patterns)


def test_the_tree_is_read() -> None:
    """The other tests look at real modules: the landmarks of the tree are found."""
    assert {"chat", "errors", "__init__"} <= NAMES


def test_nothing_imports_upward() -> None:
    """Each part imports only the parts that LAYERS allows it, and every part has an entry."""
    wrong = [
        f"{module.name} imports {name}"
        for module in MODULES
        for name in sorted(_own_imports(module))
        if (part := name.split(".")[0]) != module.part and part not in LAYERS[module.part]
    ]
    assert wrong == []


def test_the_layers_have_no_cycle() -> None:
    """The table itself goes one way: no part may reach itself through what it is allowed."""
    for part, allowed in LAYERS.items():
        reached, todo = set[str](), set(allowed)
        while todo:
            reached |= todo
            todo = set().union(*(LAYERS.get(name, set()) for name in todo)) - reached
        assert part not in reached


def test_libraries_stay_in_their_places() -> None:
    """A library is imported only where LIBRARIES says, so that it can be replaced there."""
    wrong = [
        f"{module.name} imports {name}"
        for module in MODULES
        for name in sorted(set(_imports(module)))
        if (places := LIBRARIES.get(name.split(".")[0])) is not None
        and not any(module.name == place or module.name.startswith(place + ".") for place in places)
    ]
    assert wrong == []


def test_the_pure_middle_says_so() -> None:
    """The modules that must be functions of their arguments declare it in their docstring."""
    silent = [
        module.name for module in MODULES if _matches(module.name, MUST_BE_PURE) and "Pure." not in module.docstring
    ]
    assert silent == []


def test_pure_modules_touch_nothing() -> None:
    """A module that says "Pure." imports no clock, dice, environment, file, network or Trio, nor a module that may."""
    pure = {module.name for module in MODULES if "Pure." in module.docstring}
    wrong = []
    for module in MODULES:
        if module.name not in pure:
            continue
        for name in sorted(set(_imports(module, for_types=False))):
            if name in IMPURE or name.split(".")[0] in IMPURE - {"datetime"}:
                wrong.append(f"{module.name} imports {name}")
        wrong += [f"{module.name} calls {found[0]}" for found in FILE_CALLS.finditer(module.text)]
        for name in sorted(_own_imports(module, for_types=False)):
            if name not in pure and not _matches(name, PURE_ENOUGH):
                wrong.append(f"{module.name} imports {name}, which is not pure")
    assert wrong == []


def test_nurseries_open_in_named_places() -> None:
    """Concurrency starts in few places, each on the list."""
    found = {module.name for module in MODULES if "open_nursery" in module.text}
    assert found <= NURSERIES


def test_modules_are_short() -> None:
    """A module ends at 600 lines, but for those with a reason."""
    lines = {module.name: module.text.count("\n") for module in MODULES}
    lines |= {f"_fast.{path.stem}": path.read_text().count("\n") for path in (SOURCE / "_fast").glob("*.pyx")}
    lines |= {f"_fast.{path.name}": path.read_text().count("\n") for path in (SOURCE / "_fast").glob("*.pxd")}
    assert [name for name, count in lines.items() if count > LONGER.get(name, LINES_AT_MOST)] == []


def test_every_module_has_a_contract_sentence() -> None:
    """Each module opens with a docstring whose first line is one sentence."""
    wrong = [
        module.name
        for module in MODULES
        if not (first := module.docstring.partition("\n\n")[0].rstrip()) or first[-1] not in ".:)"
    ]
    assert wrong == []


def test_packages_have_an_init() -> None:
    """Every directory with modules is a package, so that it is found when the wheel is built."""
    missing = {path.parent for path in SOURCE.rglob("*.py") if not (path.parent / "__init__.py").exists()}
    assert missing == set()


def test_no_loose_ends() -> None:
    """No unfinished work is left in the sources: no such markers, no stubs that raise."""
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"]
    files = [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyx"), *(ROOT / "tests").rglob("*.py")]
    assert [f"{path.relative_to(ROOT)}: {word}" for path in files for word in words if word in path.read_text()] == []


def test_tests_say_what_they_pin() -> None:
    """Every test function has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_tests_neither_skip_nor_mock() -> None:
    """No test is skipped, expected to fail, or runs against a mock."""
    words = ["pytest." + "skip", "mark." + "skip", "x" + "fail", "unittest." + "mock", "monkeypatch." + "setattr"]
    wrong = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for word in words
        if word in path.read_text()
    ]
    assert wrong == []
