"""Attention that ties pictures together: fusion over the frames of a video, and reference pictures."""
