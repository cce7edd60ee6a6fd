"""
What a user runs, and in benchmarks/ and paper/ what repeats a page of docs/, in a folder for each page.

The latter are run as modules from the root of the repository, so that they find what they share:
`python -m scripts.benchmarks.methods.run`. Without this file a package of the same name elsewhere would be found first.
"""
