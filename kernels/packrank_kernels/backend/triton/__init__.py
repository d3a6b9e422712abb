"""Triton forms of the ops, for CUDA devices. Imported at the first call: Triton is optional."""
