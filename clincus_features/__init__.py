"""The capabilities of Clincus beyond its API reference, a file for each."""
