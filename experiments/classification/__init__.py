"""The paper's experiments in image classification."""
