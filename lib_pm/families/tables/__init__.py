"""The transformer families, one file for each and its relatives: tables, no code."""
