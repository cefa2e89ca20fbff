"""What must hold between settings: nothing unbuilt, one meaning per alias, every route leads to a provider. Pure."""

from collections.abc import Callable
from urllib.parse import urlsplit

from securellm.config import table
from securellm.config.mistakes import nearest_name
from securellm.config.sources import Sources
from securellm.config.table import Path, dotted

LOOPBACK_NAMES = ("localhost", "::1", "0.0.0.0", "::", "")  # beside 127.*
RATES = ("rpm", "burst", "tpm", "concurrent")  # what `<provider>_` can be followed by in [rate_limit]
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")

Enabled = Callable[[str], bool]


def check_all(sources: Sources) -> None:
    """Add to `sources` every mistake that shows only when settings are seen together."""
    _check_built(sources)
    _check_rates(sources)
    _check_same(sources, ("server", "request_timeout_secs"), ("timeouts", "total_s"))
    _check_providers(sources)
    _check_models(sources)
    _check_tls(sources)


def check_routes(sources: Sources, enabled: Enabled, owners: Callable[[str], list[str]]) -> None:
    """Add a mistake for every alias and `auto` target that leads nowhere; `owners` of a bare model name."""
    aliases = {path[1] for path in sources.entries if path[0] == "aliases"}
    for path, entry in list(sources.entries.items()):
        if path[0] == "aliases" and isinstance(entry.value, str):
            if path[1] in ("auto", "auto/"):
                sources.add_mistake(path, "the name auto is taken: it stands for the targets of [auto]")
            elif entry.value in aliases:
                sources.add_mistake(path, "leads to another alias; name the model itself")
            else:
                _check_target(sources, path, entry.value, enabled, owners)
    targets = sources.value("auto", "targets")
    for target in targets if isinstance(targets, tuple) else ():
        if target.partition("/")[0] == "demo":
            sources.add_mistake(("auto", "targets"), "the demo provider is never chosen by auto; name a real provider")
        else:
            _check_target(sources, ("auto", "targets"), target, enabled, owners)


def _check_target(
    sources: Sources, path: Path, target: str, enabled: Enabled, owners: Callable[[str], list[str]]
) -> None:
    if target in ("auto", "auto/") and path[0] == "aliases" and sources.value("auto", "targets"):
        return
    provider, slash, model = target.partition("/")
    known = sources.providers()
    if slash and provider in known:
        if not enabled(provider):
            sources.add_mistake(path, f"leads to provider {provider}, which is not enabled")
        elif not model:
            sources.add_mistake(path, f"names provider {provider} but no model; expected {provider}/<model>")
        return
    owned_by = owners(target)
    if len(owned_by) == 1:
        return
    if owned_by:
        sources.add_mistake(
            path, f"several providers own the model: {', '.join(owned_by)}; expected <provider>/<model>"
        )
        return
    if not slash:
        return  # a bare name may be in the catalogue of models, which `check-config` and `serve` ask afterwards
    near = nearest_name(provider, known)
    hint = f"{near}/{model}" if near and model else None
    sources.add_mistake(path, "leads to no configured provider; expected <provider>/<model>", hint)


def rate_of(sources: Sources, key: str) -> tuple[str, str] | None:
    """The provider and the kind of rate that a key of `[rate_limit]` names, None when it names none."""
    provider, _, what = key.rpartition("_")
    by_name = {name.replace("-", "_"): name for name in sources.providers()}
    owner = by_name.get(provider.replace("-", "_"))
    return (owner, what) if owner is not None and what in RATES else None


def _check_built(sources: Sources) -> None:
    for path, entry in list(sources.entries.items()):
        setting = entry.setting
        if setting.only is not None and entry.value != setting.only:
            only = str(setting.only).lower()
            sources.add_mistake(path, f"not built in this version; remove it, or set it to {only}")
        if not setting.built and not entry.literal:
            sources.add_mistake(path, "known, but not built in this version; remove it")


def _check_rates(sources: Sources) -> None:
    known = sources.providers()
    given = [path for path, entry in sources.entries.items() if entry.setting.path == ("rate_limit", "*")]
    for path in given:
        rate = rate_of(sources, path[1])
        if rate is None:
            names = [f"{name}_{kind}" for name in known for kind in RATES]
            near = nearest_name(path[1], ["enabled", "store", "shadow", "when_unreachable", *names])
            sources.add_mistake(path, "unknown setting", f"rate_limit.{near}" if near else None)
        elif rate[1] == "rpm":
            _check_same(sources, ("providers", rate[0], "rate_limit_per_minute"), path)
    for path in [path for path in sources.sections if len(path) == 3 and path[:2] == ("rate_limit", "models")]:
        provider, _, model = path[2].partition("/")
        if provider not in known or not model:
            sources.add_mistake(path, 'names no configured provider; expected [rate_limit.models."<provider>/<model>"]')
    store = sources.value("rate_limit", "store")
    if store == "redis" and not sources.was_given(("redis", "url")):
        sources.add_mistake(("rate_limit", "store"), "is redis, and there is no redis.url")
    if sources.value("cache", "store") == "redis" and not sources.was_given(("redis", "url")):
        sources.add_mistake(("cache", "store"), "is redis, and there is no redis.url")


def _check_same(sources: Sources, left: Path, right: Path) -> None:
    if left in sources.entries and right in sources.entries and sources.value(*left) != sources.value(*right):
        sources.add_mistake(
            left, f"the same setting as {dotted(right)}, which says something else; keep one of the two"
        )


def _check_providers(sources: Sources) -> None:
    for path in [path for path in sources.sections if len(path) == 2 and path[0] == "providers"]:
        name = path[1]
        built_in = table.BUILT_IN.get(name)
        kind = sources.value(*path, "kind")
        if not set(name) <= _NAME_LETTERS or not name[:1].isalnum():
            sources.add_mistake(path, "a provider's name is made of small letters, digits, - and _")
        elif name in ("auto", "models"):
            sources.add_mistake(path, f"the name {name} is taken")
        elif built_in is None and not sources.was_given((*path, "kind")):
            near = nearest_name(name, table.BUILT_IN)
            message = 'unknown provider; one of your own needs kind = "openai-compatible" and base_url'
            sources.add_mistake(path, message, f"providers.{near}" if near else None)
        elif built_in is None and not sources.was_given((*path, "base_url")):
            sources.add_mistake(path, "a provider of your own needs base_url")
        elif built_in is not None and kind not in (None, table.COMPATIBLE, built_in.kind):
            sources.add_mistake((*path, "kind"), f"provider {name} is of kind {built_in.kind}; leave kind out")
        if name == "demo":
            for key in ("api_key", "base_url", "kind"):
                if (*path, key) in sources.entries:
                    sources.add_mistake((*path, key), "the demo provider has no such setting")
    _check_kind_settings(sources)


def _check_kind_settings(sources: Sources) -> None:
    for path in [path for path in sources.entries if path[0] == "providers"]:
        built_in = table.BUILT_IN.get(path[1])
        kind = built_in.kind if built_in else sources.value("providers", path[1], "kind")
        if path[-1] == "num_ctx" and kind != "ollama":
            sources.add_mistake(path, "only Ollama takes num_ctx")
        elif path[-1] == "endpoints" and kind != table.COMPATIBLE:
            sources.add_mistake(path, "only an OpenAI-compatible provider can have more endpoints")


def _check_models(sources: Sources) -> None:
    known = sources.providers()
    for path in [path for path in sources.sections if len(path) == 2 and path[0] == "models"]:
        provider, slash, model = path[1].partition("/")
        if provider in known and model:
            _check_price(sources, path)
            continue
        near = nearest_name(provider, known)
        hint = f'models."{near}/{model}"' if near and model else None
        what = "names no configured provider" if slash else "no provider is named"
        sources.add_mistake(path, f'{what}; expected [models."<provider>/<model>"]', hint)


def _check_price(sources: Sources, path: Path) -> None:
    rates = [entry for entry in sources.entries if entry[:2] == path and entry[-1].endswith("_usd_per_mtok")]
    if not rates:
        return
    if sources.value(*path, "free") is True:
        sources.add_mistake((*path, "free"), "the model has a price, too; keep one of the two")
    elif (*path, "input_usd_per_mtok") not in rates and (*path, "input_usd_per_mtok") not in sources.wrong:
        sources.add_mistake(rates[0], "needs input_usd_per_mtok beside it: the settings of a model are its whole price")


def _check_tls(sources: Sources) -> None:
    cert, key = ("security", "tls", "cert_path"), ("security", "tls", "key_path")
    for one, other in ((cert, key), (key, cert)):
        if one in sources.entries and not sources.was_given(other):
            sources.add_mistake(one, f"needs {dotted(other)} beside it")


def is_own_listener(base_url: str, host: str, port: int) -> bool:
    """Whether a provider's URL is plainly our own listener, so that a request would go round for ever."""
    parts = urlsplit(base_url)
    theirs = parts.hostname or ""
    their_port = parts.port or (443 if parts.scheme == "https" else 80)
    if port == 0 or their_port != port:
        return False
    if theirs == host.lower():
        return True
    reached_by_loopback = _is_loopback(host)
    return reached_by_loopback and _is_loopback(theirs)


def _is_loopback(host: str) -> bool:
    return host.lower() in LOOPBACK_NAMES or host.startswith("127.")
