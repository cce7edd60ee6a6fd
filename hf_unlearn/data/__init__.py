"""From folders, files and the hub to the images of each split."""
