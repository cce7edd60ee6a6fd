"""`evaluate` modules, one folder each: load with `evaluate.load(path)`, or call their functions directly."""
