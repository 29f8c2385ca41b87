"""Samplers, ours and the field's, on posteriors whose moments are known."""
