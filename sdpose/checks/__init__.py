"""Pre-run checks: every problem in one list, each with its remedy.

`sdpose doctor EXP` (examine.py) checks the machine that trains; `pipelines.cluster.preflight`
checks a cluster, with the same report and services.
"""
