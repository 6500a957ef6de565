"""`python -m demo`: a merge from end to end on a small pipeline that needs no download."""
