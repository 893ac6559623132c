"""GGUF files, the format of llama.cpp, as models: metadata to configuration, tensors to parameters by reference."""
