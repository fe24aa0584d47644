"""The pipelines and where they run.

submit.py (command line) -> plan.py (what runs, and where) -> local/ (this machine, by kfp.local), or
cluster/ (profile, preflight, pods of the steps) and kfp_client/ (Kubeflow Pipelines' REST interface).
The DAGs are sdpose_pipeline.py and sweep_pipeline.py.
"""
