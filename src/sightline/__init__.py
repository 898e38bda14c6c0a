"""Sightline answers questions about pictures with Qwen3-VL models, on the CPU you already have."""

__version__ = "0.1.0"
