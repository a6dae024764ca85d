"""The command line of Clincus: a file for each group of commands."""
