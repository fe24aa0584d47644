"""Runs pipelines on this machine: kfp.local, its processes, and the results that are kept."""
