"""What a model says of each split, and what attacks still find in it."""
