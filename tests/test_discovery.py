"""Asking providers for their models: what is learnt, what is kept, and that a failure takes nothing away."""

from pathlib import Path

import trio

from rig import script


async def test_models_are_learnt_and_kept(serving, provider, tmp_path: Path):
    """A sync asks for the list only, puts it into the catalogue, and another process finds it again."""
    provider.models = ["alpha", "beta"]
    state = {"state_dir": str(tmp_path / "shared")}
    with trio.fail_after(20):
        first = await serving({"vllm": provider}, **state)
        results = await first.runtime.sync_models()
        assert [(result.provider, result.models) for result in results] == [("vllm", 2)]
        assert {card.id for card in first.runtime.catalogue.models()} == {"vllm/alpha", "vllm/beta"}
        assert provider.asked == []  # nothing that is paid for
        await first.stop()
        second = await serving({"vllm": provider}, **state)
        assert {card.id for card in second.runtime.catalogue.models()} == {"vllm/alpha", "vllm/beta"}


async def test_a_provider_that_fails_keeps_what_was_known(serving, provider, second_provider):
    """One that cannot be asked says why; the others are learnt from all the same."""
    provider.models, second_provider.models = ["alpha"], ["beta"]
    with trio.fail_after(20):
        gateway = await serving({"vllm": provider, "other": second_provider})
        await gateway.runtime.sync_models()
        failures = {"upstream_auth": script.answer(401, b"{}"), "upstream_invalid": script.answer(200, b"no list")}
        for code, steps in failures.items():
            provider.models_script = steps
            results = {result.provider: result for result in await gateway.runtime.sync_models()}
            assert (results["vllm"].models, results["vllm"].error) == (None, code)
            assert results["vllm"].error in (
                "upstream_auth",
                "upstream_invalid",
                "upstream_truncated",
                "connect_failed",
            )
            assert results["other"].models == 1
        assert {card.id for card in gateway.runtime.catalogue.models()} == {"vllm/alpha", "other/beta"}
