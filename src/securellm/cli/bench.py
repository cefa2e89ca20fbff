"""`securellm bench`: how a running gateway does under load, seen from outside."""

import json
import os
from typing import Any

import click

from securellm.cli.gateway import gateway_url
from securellm.cli.load import Load, Measured, quantile

DEFAULT_MODEL = "demo/echo"
MOST_CONNECTIONS = 512
QUESTION = "Say hello."
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
INTERRUPTED = 130  # as every command on Ctrl-C


@click.command()
@click.argument("url", required=False)
@click.option("--key", help="A key of the gateway, in place of SECURELLM_API_KEY; others on this machine may see it.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="What is asked; mind what it costs.")
@click.option("--requests", type=click.IntRange(1), default=200, show_default=True, help="How many, in all.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, MOST_CONNECTIONS),
    default=8,
    show_default=True,
    help="How many at one time.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Stop after this.")
@click.option("--max-tokens", type=click.IntRange(1), help="The most tokens of an answer.")
@click.option("--stream", is_flag=True, help="Ask for streams, and tell when the first token came.")
@click.option("--json", "as_json", is_flag=True, help="For programs; times are milliseconds.")
@click.pass_context
def bench(
    ctx: click.Context,
    url: str | None,
    key: str | None,
    model: str,
    requests: int,
    concurrency: int,
    seconds: float,
    max_tokens: int | None,
    stream: bool,
    as_json: bool,
) -> None:
    """Measure the gateway at URL, else at SECURELLM_URL: throughput, latency, and what went wrong.

    Every request asks the same short question. Ctrl-C stops and prints what was measured so far.
    """
    request: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    if stream:
        request["stream"] = True
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    where = url.rstrip("/") if url else gateway_url()
    key = (key or os.environ.get("SECURELLM_API_KEY", "")).strip()
    measured = Load(where, "URL" if url else "SECURELLM_URL", key, request).run(requests, concurrency, seconds)
    described = describe(measured)
    if as_json:
        click.echo(json.dumps({"url": where, "model": model, "stream": stream, **described}))
    else:
        click.echo(f"{where}, {model}, {concurrency} at one time" + (", streamed" if stream else ""))
        click.echo(encode_table(described))
    if measured.interrupted:
        ctx.exit(INTERRUPTED)
    if not measured.good:
        ctx.exit(1)


def describe(measured: Measured) -> dict[str, Any]:
    """The figures by name; times in milliseconds."""
    elapsed_s = measured.elapsed_s
    described: dict[str, Any] = {
        "good": measured.good,
        "failed": measured.failed,
        "seconds": round(elapsed_s, 3),
        "requests_per_s": round(measured.good / elapsed_s, 1) if elapsed_s else 0.0,
        "interrupted": measured.interrupted,
    }
    for name, times_s in (("latency_ms", measured.latencies_s), ("first_token_ms", measured.first_tokens_s)):
        if times_s:
            described[name] = {share: round(quantile(times_s, of) * 1000, 2) for share, of in SHARES.items()}
    return described | {"errors": dict(measured.errors.most_common())}


def encode_table(described: dict[str, Any]) -> str:
    """The figures for people."""
    stopped = ", interrupted" if described["interrupted"] else ""
    lines = [
        f"requests     {described['good']} good, {described['failed']} failed, in {described['seconds']} s{stopped}",
        f"throughput   {described['requests_per_s']} good answers a second",
    ]
    for name, title in (("latency_ms", "latency"), ("first_token_ms", "first token")):
        if name in described:
            shares = "  ".join(f"{share} {value:.1f}" for share, value in described[name].items())
            lines.append(f"{title:<12} {shares} ms")
    lines += [f"{'error' if number == 0 else '':<12} {count} x {code}" for number, (code, count) in
              enumerate(described["errors"].items())]  # fmt: skip
    return "\n".join(lines)
