"""Before hours are spent on a dataset: its checks, its digest, and the pack of its images."""
