"""Check the Kubernetes manifests offline, and simulate the kubelet that runs their pod."""
