"""From an input to an asset: the order of the stages, what each keeps, how long it takes.

Start at `run.py`; `job.py` holds the stages of one object, `parts.py` is the one place that builds priors and fits.
"""
