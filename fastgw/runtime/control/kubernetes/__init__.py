"""Reads and watches objects of a Kubernetes cluster."""
