"""Ways in: PyTorch modules, exported programs and Hugging Face folders become captured graphs."""
