"""Before a run: is all there that it needs? All problems in one list, each with its remedy.

`sdpose doctor EXP` (examine.py) looks from the machine that trains; `pipelines.preflight` looks at
a cluster, with the same report and services.
"""
