"""From a clean graph to a schedule: fusion groups, layouts, storages and kernels."""
