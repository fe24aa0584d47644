"""Runs pipelines on a cluster: submission, preflight checks, pods of the steps."""
