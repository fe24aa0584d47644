"""The pipelines and where they run.

submit.py is the command line, plan.py decides what runs and where: local/ is this machine (by
kfp.local), cluster/ submits to a cluster, kfp_client/ is the client of Kubeflow Pipelines. The DAGs
are sdpose_pipeline.py and sweep_pipeline.py.
"""
