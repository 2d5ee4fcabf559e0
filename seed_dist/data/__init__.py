"""Data sets on disk: webdataset shards with an index and a manifest, how they are made and how they are read.

A folder of shards is finished when its `manifest.json` exists, which is written last. No torch: workers start fast.
"""
