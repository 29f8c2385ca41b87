"""The paper's experiments on images."""
