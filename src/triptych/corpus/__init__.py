"""Recordings on disk: manifests, prepared clips, token shards and the order in which they are read."""
