"""What a HorizontalPodAutoscaler would do with these pods: the manifest that is deployed, simulated."""
