"""ONNX out: a captured graph becomes a model of the standard, its weights written one after another."""
