"""Hand-designed loop nests for CPUs: GEMM, convolution, attention."""
