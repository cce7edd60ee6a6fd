"""What `hf-unlearn push --space` uploads: a page that shows a model before and after, see `app.py`."""
