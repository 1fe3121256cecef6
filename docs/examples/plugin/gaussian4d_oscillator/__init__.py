"""An example of a package that adds to gaussian4d; docs/extending.md builds it step by step.

Nothing is imported here: gaussian4d finds each thing by its entry point, and imports it when it is asked for.
"""
