"""What outlives the process: files, batches, their tables. Knows SQL and the data folder; no HTTP, no JSON bodies."""
