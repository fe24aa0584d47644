"""SDPose: small, accurate human-pose transformers trained by self-distillation."""

__version__ = "0.1.0"
