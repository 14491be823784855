"""Everything about the manifests, images and proxies that can be checked without a cluster: ``python -m deploy.check``."""
