"""The text that says what to merge: tags read, edited, written."""
