"""Layer names per model family."""
