"""The distributed training job on Kubernetes: built, submitted, watched, and ended in order."""

from components.launcher.build import build_job, build_pytorchjob, build_trainjob, job_name

__all__ = ["build_job", "build_pytorchjob", "build_trainjob", "job_name"]
