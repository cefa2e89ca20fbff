"""What may be kept of keys, users, teams and budgets; a mistake names its field and what to write instead. Pure."""

import re
from ipaddress import ip_network

import msgspec

from securellm.accounts.bounds import KINDS, WINDOWS, Budget
from securellm.accounts.keys import ROLES
from securellm.chat import Endpoint, Grants
from securellm.config.tree import Rates
from securellm.errors import BadRequest

MAX_NAME_CHARS = 128
MAX_GRANTS = 1000  # of one sort; each is looked through for a model that is not remembered
MAX_GRANT_CHARS = 512
LONGEST_TIME_S = 253_402_300_799  # the last second of the year 9999
LARGEST_RATE = 10**12
LARGEST_LIMIT = 2**62

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def check_id(value: str, param: str = "id") -> str:
    """The id of a user or a team. Raises BadRequest."""
    if not _ID.fullmatch(value):
        raise BadRequest(
            f"{param}: expected 1 to 64 letters, digits or . _ @ + -, and a letter or digit first", param=param
        )
    return value


def check_name(value: str, param: str = "name") -> str:
    """A name for people. Raises BadRequest."""
    if len(value) > MAX_NAME_CHARS or (value and not value.isprintable()):
        raise BadRequest(f"{param}: expected at most {MAX_NAME_CHARS} printable characters", param=param)
    return value


def check_role(value: str) -> str:
    """Raises BadRequest."""
    return _one_of(value, ROLES, "role")


def check_expiry(value: int | None) -> int | None:
    """Unix seconds at which a key ends, None for never. Raises BadRequest."""
    if value is not None and not 0 <= value <= LONGEST_TIME_S:
        raise BadRequest("expires_at_s: expected Unix seconds, or null for never", param="expires_at_s")
    return value


def check_grants(grants: Grants) -> Grants:
    """What a key may be used for. Raises BadRequest."""
    for name in Grants.__struct_fields__:
        granted = getattr(grants, name)
        if granted is None:
            continue
        param = f"grants.{name}"
        if len(granted) > MAX_GRANTS:
            raise BadRequest(f"{param}: got {len(granted)}, expected at most {MAX_GRANTS}", param=param)
        for one in granted:
            if not one or len(one) > MAX_GRANT_CHARS or not one.isprintable():
                raise BadRequest(f"{param}: expected texts of 1 to {MAX_GRANT_CHARS} printable characters", param=param)
    for model in grants.models or ():
        _check_model(model)
    for provider in grants.providers or ():
        if not _PROVIDER.fullmatch(provider):
            raise BadRequest("grants.providers: expected names of providers, like openai", param="grants.providers")
    for endpoint in grants.endpoints or ():
        _one_of(endpoint, tuple(known.value for known in Endpoint), "grants.endpoints")
    if grants.networks is None:
        return grants
    return msgspec.structs.replace(grants, networks=tuple(_network(one) for one in grants.networks))


def check_rates(rates: Rates | None) -> Rates | None:
    """Rates of a key, a user or a team; all None is as good as none. Raises BadRequest."""
    if rates is None:
        return None
    given = msgspec.structs.asdict(rates)
    for name, value in given.items():
        least = 1 if name == "burst" else 0
        if value is not None and not least <= value <= LARGEST_RATE:
            param = f"rates.{name}"
            hint = "" if name == "burst" else "; 0 is no limit, null is as the configuration says"
            raise BadRequest(f"{param}: expected {least} to {LARGEST_RATE}{hint}", param=param)
    if rates.burst is not None and not rates.rpm:
        raise BadRequest("rates.burst: goes with rates.rpm, which is not set", param="rates.burst")
    return rates if any(value is not None for value in given.values()) else None


def check_budget(budget: Budget) -> Budget:
    """A budget; its subject is looked for by the store. Raises BadRequest."""
    _one_of(budget.kind, KINDS, "kind")
    _one_of(budget.window, WINDOWS, "window")
    check_id(budget.subject, "subject")
    for param, value in (("limit_nusd", budget.limit_nusd), ("limit_tokens", budget.limit_tokens)):
        if value is not None and not 0 <= value <= LARGEST_LIMIT:
            raise BadRequest(f"{param}: expected 0 to {LARGEST_LIMIT}, or null for no bound", param=param)
    if budget.limit_nusd is None and budget.limit_tokens is None:
        raise BadRequest("limit_nusd: a budget needs a limit in USD or in tokens", param="limit_nusd")
    if not 60 <= budget.rolling_s <= 366 * 86_400:
        raise BadRequest("rolling_s: expected 60 s to 366 days", param="rolling_s")
    return budget


def check_overlap(overlap_s: int) -> int:
    """How long a rotated key stays good. Raises BadRequest."""
    if not 0 <= overlap_s <= 366 * 86_400:
        raise BadRequest("overlap_s: expected 0 s to 366 days", param="overlap_s")
    return overlap_s


def _check_model(model: str) -> None:
    provider, slash, name = model.partition("/")
    whole = model == "*" or (bool(slash) and bool(name) and bool(_PROVIDER.fullmatch(provider)))
    if not whole or "*" in model[:-1]:
        raise BadRequest(
            "grants.models: expected <provider>/<model>, with * at the end only, like openai/gpt-5 or openai/*",
            param="grants.models",
        )


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise BadRequest(
            "grants.networks: expected addresses or networks, like 192.0.2.7 or 10.0.0.0/8", param="grants.networks"
        ) from None


def _one_of(value: str, known: tuple[str, ...], param: str) -> str:
    if value not in known:
        raise BadRequest(f"{param}: expected one of {', '.join(known)}", param=param)
    return value
