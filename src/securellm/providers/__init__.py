"""How each provider wants to be asked: pure descriptions, quirks as data."""
