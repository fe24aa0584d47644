"""Models in use: load one, estimate poses, draw them, export it for other runtimes."""

from sdpose.inference.draw import draw_poses
from sdpose.inference.estimator import PoseEstimator, Poses
from sdpose.inference.load import load, load_network

__all__ = ["PoseEstimator", "Poses", "draw_poses", "load", "load_network"]
