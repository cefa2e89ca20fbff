"""What is said on the wire: bytes to words and back, one module a framing or a dialect. Pure."""
