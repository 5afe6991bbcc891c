"""What inference writes about a case: overlays, tables, organ reports."""
