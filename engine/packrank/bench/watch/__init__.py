"""What the machine does meanwhile: what else runs, clocks, energy."""
