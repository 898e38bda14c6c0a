"""Pictures as callers send them become pixels as the model sees them, under every limit. Knows no model, no HTTP."""
