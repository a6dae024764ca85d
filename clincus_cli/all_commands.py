"""The table of commands and their files in this package. A command line loads only the file that it needs."""

from importlib import import_module

# Words that people know from other programs, and the commands that they stand for.
ALIASES = {
    "delete": "kill",
    "exec": "container exec",
    "logs": "log",
    "ls": "list",
    "ps": "list",
    "rm": "kill",
    "start": "resume",
}
# The topics of the program's help, in its order, with their files and the first words of the commands in them.
TOPICS = {
    "Sessions": {
        "shell": "attach shell",
        "sessions": "clean info kill list persist rename resume shutdown stop",
    },
    "What a session's tool does": {"agents": "answer interrupt log prompt wait why", "cost": "cost"},
    "What a session changes and reaches": {
        "review": "checkpoints commit diff undo",
        "clone": "fetch push",
        "network": "network",
        "logins": "login",
        "protection": "protection",
        "ports": "ports",
    },
    "Containers, images and engines": {
        "run": "run tmux",
        "containers": "container",
        "files": "file",
        "snapshots": "snapshot",
        "images": "image images",
        "engines": "engine",
    },
    "This machine": {
        "setup_commands": "build health setup uninstall",
        "settings": "config",
        "service": "serve service",
        "trust": "trust",
        "completion": "",  # these two look at the commands of all files
        "help": "",
    },
}


def load_commands(word: str = "") -> None:
    """Let the file declare its commands that begin with a word; all files if none has it: it may be a flag."""
    word = ALIASES.get(word, word).partition(" ")[0]
    words: dict[str, list[str]] = {}
    for files in TOPICS.values():
        words.update((file, names.split()) for file, names in files.items())
    for file in [file for file in words if word in words[file]] or words:
        import_module(f"{__package__}.{file}")
