"""What to forget: requests, their schemas, and hashes of images."""
