"""The data: loads images from the hub, folders and files, finds their labels, and splits them by a request."""
