"""The compiled edge: the hot requests, served between two sockets without ASGI. Deletable: only `server` knows it."""
