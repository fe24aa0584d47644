"""The pipeline, and how it is started."""
