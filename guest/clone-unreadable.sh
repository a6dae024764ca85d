#!/bin/sh
# Prints the files of the clone that the code user cannot read, a line for each: clone-unreadable.sh FOLDER
cd -- "$1" || exit 1
unreadable_files
