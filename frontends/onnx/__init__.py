"""ONNX in: models of the standard become captured graphs, node by node, through the same tracing as PyTorch's."""
