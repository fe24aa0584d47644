"""A client of Kubeflow Pipelines: endpoint, connection, requests, errors, waiting."""
