"""What the user asked for, from start to finish: read, merge one layer at a time, write, report."""
