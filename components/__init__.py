"""The steps of the pipeline: one file each, one call into `sdpose` each.

A body runs alone, in the process (or the container) of its step: it imports what it needs.

Beside the steps: launcher/ runs a training as a PyTorchJob or TrainJob, kube/ is the client of
Kubernetes, profile.py is the cluster profile (`--cluster FILE`).
"""

# What a step runs in on a cluster; the local runner uses the Python that submits. Named per
# submission (submit.py --image), this name is only what an uploaded package falls back to.
BASE_IMAGE = "sdpose-trainer:latest"
