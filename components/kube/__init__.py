"""The Kubernetes API, for whatever stays with it: credentials, retries, errors, watches."""
