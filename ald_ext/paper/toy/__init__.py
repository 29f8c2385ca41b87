"""The paper's toy experiments: posteriors that are known exactly."""
