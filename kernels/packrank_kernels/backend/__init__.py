"""Ops by what computes them: C++ on CPUs, CUDA C++, Triton, cuBLASLt, attention of others."""
