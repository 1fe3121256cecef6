"""How the embedded models are trained: toys as data, the loop, what is saved. Programs: `scripts/train_*.py`."""
