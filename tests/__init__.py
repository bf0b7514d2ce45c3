"""A package, because the peer of a benchmark installs a top-level package ``tests`` of its own."""
