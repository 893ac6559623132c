"""The Graph IR: captured models, constants by reference, and what a legal graph is."""
