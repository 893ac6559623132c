"""The runtime: loads and runs artifacts; imports neither torch nor anything that made the artifact."""
