"""Cluster descriptions, one YAML file each; see README.md beside this file."""
