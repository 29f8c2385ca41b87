"""Ops and optimizer steps."""
