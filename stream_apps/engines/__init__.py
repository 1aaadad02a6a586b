"""What runs the operators: Faust or the direct loop, with the same tasks, checkpoints and recovery."""
