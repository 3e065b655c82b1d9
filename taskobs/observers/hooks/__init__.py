"""Functions of the app's own that are called with each publish and each run."""
