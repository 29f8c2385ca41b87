"""Random calls of the ops, compared with the reference; `make fuzz`."""
