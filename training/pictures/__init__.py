"""Draws the pictures that the demo model learns from. Knows pixels, questions and answers; neither tokens nor torch."""
