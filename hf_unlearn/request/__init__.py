"""What to forget: forget requests, their JSON Schemas, and hashes of images."""
