"""Tables of papers, cell by cell."""
