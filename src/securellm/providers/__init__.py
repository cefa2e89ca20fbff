"""How each provider wants to be asked: descriptions as data, quirks included. Pure."""
