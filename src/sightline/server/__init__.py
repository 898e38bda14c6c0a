"""The HTTP face: the only place that knows FastAPI. Turns bodies into our values and answers into bodies."""
