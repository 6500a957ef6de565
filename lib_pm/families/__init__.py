"""Model families and their layer names."""
