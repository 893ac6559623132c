"""The artifact: one file with kernels, weights, checksums, plans and a manifest; written and read without torch."""

from ullage.artifact.manifest import About, Manifest, PlanEntry, Rewrite, describe
from ullage.artifact.reader import Artifact, inspect, read_manifest
from ullage.artifact.writer import ArtifactWriter

__all__ = [
    "About",
    "Artifact",
    "ArtifactWriter",
    "Manifest",
    "PlanEntry",
    "Rewrite",
    "describe",
    "inspect",
    "read_manifest",
]
