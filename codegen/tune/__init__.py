"""Autotuning: tilings of the kernels that cost most, chosen by the cost model, measured, and cached by machine."""
