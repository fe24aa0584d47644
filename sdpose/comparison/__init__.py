"""Runs side by side: what differs in them, what came of it, and what of that is chance."""
