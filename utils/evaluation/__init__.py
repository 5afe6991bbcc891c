"""Metrics, their statistics, and the report on a cohort."""
