"""Network architectures, with the published key names."""

from facemark_export.networks.architecture import Architecture, build_network

__all__ = ["Architecture", "build_network"]
