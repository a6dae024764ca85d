#!/bin/sh
# Sends a file or a folder. Argument: the path. The first line is its kind, the rest is its content.
if [ -d "$1" ]; then
    cd -- "$1" || exit 3
    echo directory
    tar -cf - .
    [ $? -le 1 ] # GNU tar gives 1 if a file changed meanwhile
elif [ -f "$1" ]; then
    echo "file $(stat -L -c "%a %Y" -- "$1")" && exec cat -- "$1"
elif [ -e "$1" ]; then
    echo other
else
    echo missing
fi
