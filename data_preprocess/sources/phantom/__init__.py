"""CTs and organs drawn by formulas, for the demo and the tests."""
