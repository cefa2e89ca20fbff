"""May they: what bounds the requests that are served at once. Pure."""
