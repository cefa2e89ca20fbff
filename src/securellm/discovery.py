"""Ask providers which models they have, and put what they say into the catalogue. Never a paid call.

What they said is kept in the store, so that a restart does not forget it; a store that is down keeps nothing and fails
nothing.
"""

import logging

import msgspec
import trio

from securellm.accounts.store import Store, StoredModel
from securellm.errors import SecureLLMError, StoreUnavailable, TotalTimeout, UpstreamAuth, UpstreamInvalid
from securellm.providers.base import Provider
from securellm.providers.models import ModelCard, parse_models
from securellm.providers.request import build_models_request
from securellm.serving import Serving
from securellm.upstream.body import read_whole

SYNC_S = 10.0  # bound of one provider's list; lists are short and come in one answer

_log = logging.getLogger("securellm.discovery")


class SyncResult(msgspec.Struct, frozen=True):
    """What one provider said: the number of its models, or why there is none."""

    provider: str
    models: int | None
    error: str | None = None


class Discovery:
    """Fetches model lists."""

    def __init__(self, serving: Serving, store: Store) -> None:
        self._providers = serving.providers
        self._catalogue = serving.catalogue
        self._clients = serving.clients
        self._connect_s = serving.config.timeouts.connect_s
        self._store = store

    async def recall(self) -> None:
        """Put into the catalogue what was kept."""
        try:
            kept = await self._store.in_thread(self._store.read_models)
        except StoreUnavailable as error:
            _log.warning("the models that providers listed earlier cannot be read: %s", error.message)
            return
        by_provider: dict[str, list[ModelCard]] = {}
        for model in kept:
            by_provider.setdefault(model.provider, []).append(ModelCard(**msgspec.structs.asdict(model)))
        for provider, cards in by_provider.items():
            self._catalogue.learn(provider, cards)

    async def sync(self) -> list[SyncResult]:
        """Ask all providers at once; the catalogue takes what each says. One that fails keeps what was known."""
        results: dict[str, SyncResult] = {}

        async def sync_one(provider: Provider) -> None:
            results[provider.name] = await self._sync_one(provider)

        async with trio.open_nursery() as nursery:
            for provider in self._providers.values():
                nursery.start_soon(sync_one, provider)
        return [results[name] for name in self._providers]

    async def _sync_one(self, provider: Provider) -> SyncResult:
        try:
            cards = await self._fetch_models(provider)
        except SecureLLMError as error:
            return SyncResult(provider.name, None, error.code)
        if cards is None:
            return SyncResult(provider.name, None, "no_model_list")
        self._catalogue.learn(provider.name, cards)
        await self._keep(provider, cards)
        return SyncResult(provider.name, len(cards))

    async def _keep(self, provider: Provider, cards: list[ModelCard]) -> None:
        kept = [
            StoredModel(provider.name, card.model, card.context, card.max_output, card.created_s, card.display_name)
            for card in cards
        ]
        try:
            await self._store.in_thread(self._store.save_models, provider.name, kept)
        except StoreUnavailable as error:
            _log.warning("the models that %s lists are not kept: %s", provider.name, error.message)

    async def _fetch_models(self, provider: Provider) -> list[ModelCard] | None:
        request = build_models_request(provider)
        if request is None:
            return None
        with trio.move_on_after(SYNC_S):
            exchange = await self._clients.client_of(provider).send(request, connect_s=self._connect_s)
            try:
                if exchange.status in (401, 403):
                    raise UpstreamAuth(f"provider {provider.name} refused the gateway's own credentials")
                if exchange.status != 200:
                    raise UpstreamInvalid(f"provider {provider.name} answered with {exchange.status}")
                return parse_models(provider, await read_whole(exchange))
            finally:
                await exchange.aclose()  # under a shield of its own, in bounded time
        raise TotalTimeout(f"provider {provider.name} did not list its models within {SYNC_S:g} s")
