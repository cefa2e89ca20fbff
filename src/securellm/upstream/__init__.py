"""How providers are asked: one client contract, deadlines, retries before the first byte, fallback, breakers."""
