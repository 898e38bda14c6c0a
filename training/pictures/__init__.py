"""Draws the pictures that the demo model learns from. Knows pixels, questions and answers; never tokens, never torch."""
