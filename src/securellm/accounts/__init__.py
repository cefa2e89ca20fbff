"""Who is calling: keys, the store that keeps them, and the snapshot that requests are checked against."""
