"""Two-dimensional augmentation of images with their boxes and label masks, and the geometry of evaluation inputs."""
