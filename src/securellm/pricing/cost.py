"""Usage times price, in integer nano-USD, rounded once. Pure.

cost = (Σ tokens of a bucket × its rate) / 1,000,000, half up. The rates are those of the tier that the size of the
prompt selects; cached tokens count for that size. A bucket without a rate of its own costs what the bucket costs that
it would otherwise be part of, so leaving one out never makes tokens free:

    output, cache_read, cache_write_5m, audio_input, image  ->  input
    cache_write_1h                                          ->  cache_write_5m
    audio_output, reasoning                                 ->  output
"""

from securellm.chat import Usage
from securellm.pricing.price import Price, Rates

MILLION = 1_000_000


def cost_nusd(usage: Usage, price: Price) -> int:
    """What `usage` costs at `price`, in nano-USD."""
    if price.free:
        return 0
    rates = rates_for(price, usage.prompt_tokens) if price.tiers else price
    output = rates.input if rates.output is None else rates.output
    total = usage.input_tokens * rates.input + (usage.output_tokens - usage.reasoning_tokens) * output
    if usage.cache_read_tokens:
        total += usage.cache_read_tokens * _or(rates.cache_read, rates.input)
    if usage.cache_write_5m_tokens or usage.cache_write_1h_tokens:
        write_5m = _or(rates.cache_write_5m, rates.input)
        total += usage.cache_write_5m_tokens * write_5m
        total += usage.cache_write_1h_tokens * _or(rates.cache_write_1h, write_5m)
    if usage.reasoning_tokens:
        total += usage.reasoning_tokens * _or(rates.reasoning, output)
    if usage.audio_input_tokens:
        total += usage.audio_input_tokens * _or(rates.audio_input, rates.input)
    if usage.audio_output_tokens:
        total += usage.audio_output_tokens * _or(rates.audio_output, output)
    if usage.image_tokens:
        total += usage.image_tokens * _or(rates.image, rates.input)
    return (total + MILLION // 2) // MILLION


def rates_for(price: Price, prompt_tokens: int) -> Rates:
    """The rates for a prompt of that size, cached tokens included."""
    rates: Rates = price
    for tier in price.tiers:
        if prompt_tokens > tier.above_tokens:
            rates = tier
    return rates


def _or(rate: int | None, otherwise: int) -> int:
    return otherwise if rate is None else rate
