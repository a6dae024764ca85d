"""What Clincus does beyond its API reference: a file for each capability."""
