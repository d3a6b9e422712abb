"""A CUDA device that is not there: what is launched on it is checked, written down and not run."""
