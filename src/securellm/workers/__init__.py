"""Several processes behind one port: who watches them, and how they talk to each other."""
