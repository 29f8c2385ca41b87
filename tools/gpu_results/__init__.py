"""The paper's experiments on images at full width, within minutes of one GPU at a time: `make results-gpu`.

What there is time for is computed in the order of its worth: one seed of everything before the second seed. What was
computed is kept in one file, campaign.json, with the pictures beside it, so that another run, on another machine too,
goes on where this one stopped.
"""
