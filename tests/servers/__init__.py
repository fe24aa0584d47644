"""Real servers for tests: each on a free port of its own, with a bounded life."""
