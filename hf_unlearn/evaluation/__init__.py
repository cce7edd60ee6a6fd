"""Measures models: their outputs on the splits and all metrics of them, and attacks that look past the outputs."""
