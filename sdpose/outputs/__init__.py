"""What leaves a run: mirror and lease, log files, TensorBoard, MLflow, progress records."""
