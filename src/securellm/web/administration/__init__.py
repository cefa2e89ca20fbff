"""Administration over HTTP: its own sockets, its own list of endpoints, a key with the role admin for each of them."""
