"""Whose certificates are believed: the system's store, as every other program of the machine uses it."""

import functools
import ssl

import truststore


@functools.cache
def shared_tls() -> ssl.SSLContext:
    """One context for all providers, since building one takes milliseconds. HTTP/1.1 is all that is offered."""
    tls = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.set_alpn_protocols(["http/1.1"])
    return tls
