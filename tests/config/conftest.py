"""The configurations are read as mmpose users write them, and never run."""

collect_ignore = ["mmpose"]
