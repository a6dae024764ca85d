"""Somebody swaps a folder for a link while a copy is put back: nothing outside of the workspace is touched."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from clincus_features.protection import restore
from clincus_features.protection.identity import Copies, note_item

ROUNDS = 300


class Race:
    """A workspace whose folder `.git` is a link to a folder of the host in every other moment."""

    def __init__(self, folder):
        self.root, self.host = folder / "work", folder / "host"
        for top in (self.root / ".git", self.host):
            (top / "hooks").mkdir(parents=True)
            (top / "config").write_text("[core]\n")
            (top / "hooks/one").write_text("true\n")
        for path in (self.host, self.host / "hooks", self.host / "config", self.host / "hooks/one"):
            os.utime(path, (1, 1))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.swap)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def swap(self):
        git, away = self.root / ".git", self.root / "away"
        while not self.over.is_set():
            git.rename(away)
            git.symlink_to(self.host)
            git.unlink()
            away.rename(git)

    def state(self):
        """All of the folder of the host."""
        entries = [self.host, *sorted(self.host.rglob("*"))]
        return [(one.relative_to(self.host), one.lstat().st_mtime, one.lstat().st_ino) for one in entries]


def test_a_copy_is_never_put_back_into_a_folder_behind_a_link(tmp_path):
    race, copies = Race(tmp_path), Copies()
    place = str(race.root / ".git/config")
    item = note_item(place, copies)
    before = race.state()
    with race:
        back = rounds = 0
        while rounds < ROUNDS or not back:  # a busy machine may let the other thread win each time
            rounds += 1
            write_evil(race)
            back += restore.restore(place, item, copies.data)
    assert race.state() == before
    assert restore.restore(place, item, copies.data)


def write_evil(race):
    """Change the file of the workspace, so that there is something to put back."""
    for top in ("away", ".git"):
        with suppress(OSError):
            folder = os.open(race.root / top, os.O_DIRECTORY | os.O_NOFOLLOW)
            if os.fstat(folder).st_ino != race.host.stat().st_ino:
                file = os.open("config", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=folder)
                os.write(file, b"evil")
                os.close(file)
            os.close(folder)
