#!/bin/sh
# Writes and removes files of the workspace by Clincus's orders on stdin, without following any link.
#
# Argument: the workspace. Each order is a line `put MODE IS_NEW PATHLENGTH SIZE` with that path and that content after
# it, or `remove - - PATHLENGTH 0` with a path. The answer is a line with a word for each: `done`, or the obstacle. MODE
# is git's: 100644, 100755, or 120000 for a link.
#
# A checkpoint has just been taken. Files that have changed since are left alone, since no checkpoint has them: git
# reports changes before this start, and the ctime of a file those after it. A new file replaces no other one.
# Each folder on the way is opened without following links, and made the working directory by its handle. So a folder
# that is swapped for a link meanwhile has no effect.
set -f
cd -- "$1" || exit 1
GIT_DIR=$HOME/.clincus/shadow GIT_WORK_TREE=$PWD GIT_INDEX_FILE=$GIT_DIR/index
GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1
GIT_ATTR_SOURCE=4b825dc642cb6eb9a060e54bf8d69288fbee4904 # the empty tree, as in guest/checkpoint.sh
export GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_CONFIG_NOSYSTEM GIT_CONFIG_GLOBAL GIT_ATTR_NOSYSTEM GIT_ATTR_SOURCE
# After its answer, a first checkpoint still tells the index the times of the files. Before that, all look changed.
{ exec 9>"$GIT_DIR.lock" && flock -w 20 9; } || { echo 'a checkpoint is still being taken; try again' >&2; exit 1; }
exec 9>&-
# shellcheck disable=SC2016 # Perl's variables
exec perl -MFcntl=:DEFAULT,:mode -MTime::HiRes=lstat -MErrno=:POSIX -e '
    use strict;
    $| = 1;
    umask 022;
    sysopen my $top, ".", O_RDONLY | O_DIRECTORY or die "the workspace: $!\n";
    # A file made now has the time of the file system, which may be that of another machine.
    my $mark = ".clincus-$$-mark";
    sysopen my $file, $mark, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600 or die "the workspace: $!\n";
    close $file;
    my $begun = (lstat $mark)[10];
    unlink $mark;
    open my $git, "-|", "git", "diff-files", "--name-only", "-z" or die "git: $!\n";
    my %changed = do { local $/ = "\0"; map { chomp; ($_ => 1) } <$git> };
    close $git or die "git cannot tell what has changed\n";

    sub reason {
        return "link" if $!{ELOOP} || $!{ENOTDIR} || $!{EISDIR} || $!{EEXIST} || $!{ENOTEMPTY};
        # EOVERFLOW: the file belongs to an id that the container does not have.
        return "readonly" if $!{EROFS} || $!{EACCES} || $!{EPERM} || $!{EBUSY} || $!{EOVERFLOW};
        return "gone" if $!{ENOENT};
        return "failed";
    }
    # Enters a folder below the top; false with $! if that is not possible.
    sub enter {
        my ($makes, @parts) = @_;
        chdir $top or return;
        for my $part (@parts) {
            my $way = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
            if (!sysopen my $folder, $part, $way) {
                return unless $makes && $!{ENOENT} && mkdir $part;
                sysopen $folder, $part, $way or return;
                chdir $folder or return;
            } else {
                chdir $folder or return;
            }
        }
        return 1;
    }
    # Creates a new file at an empty place.
    sub add {
        my ($new, $name) = @_;
        return "done" if link $new, $name;
        return reason() unless $!{EPERM} || $!{EMLINK} || $!{EOPNOTSUPP};
        # A file system without hard links: an empty file of ours keeps the place.
        sysopen my $file, $name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600 or return reason();
        return replace($new, $name, lstat $name);
    }
    # Replaces a file that is still the same one, unchanged.
    sub replace {
        my ($new, $name, @before) = @_;
        my @now = lstat $name;
        return "changed" unless @now && "@now[0, 1, 2, 7, 9, 10]" eq "@before[0, 1, 2, 7, 9, 10]";
        return rename($new, $name) ? "done" : reason();
    }
    sub put {
        my ($path, $mode, $is_new, $content) = @_;
        my @parts = split m{/}, $path;
        my $name = pop @parts;
        enter(1, @parts) or return reason();
        my @there = lstat $name;
        return "occupied" if $is_new && @there;
        return "link" if @there && S_ISDIR($there[2]);
        return "changed" if !$is_new && (!@there || $changed{$path} || $there[10] >= $begun);
        my $new = ".clincus-$$-new";
        unlink $new;
        if ($mode eq "120000") {
            symlink $content, $new or return reason();
        } else {
            sysopen my $file, $new, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600 or return reason();
            my $rights = @there && S_ISREG($there[2]) ? $there[2] & 0666 : 0644;
            $rights |= $rights >> 2 & 0111 if $mode eq "100755";
            my $at = 0;
            while ($at < length $content) {
                my $more = syswrite $file, $content, 1 << 20, $at;
                if (!defined $more) { my $why = reason(); unlink $new; return $why }
                $at += $more;
            }
            chmod $rights, $file;
            close $file or do { unlink $new; return "failed" };
        }
        my $why = $is_new ? add($new, $name) : replace($new, $name, @there);
        unlink $new;
        return $why;
    }
    sub remove {
        my ($path) = @_;
        my @parts = split m{/}, $path;
        my $name = pop @parts;
        enter(0, @parts) or return reason();
        my @there = lstat $name or return reason();
        return "changed" if S_ISDIR($there[2]) || $changed{$path} || $there[10] >= $begun;
        unlink $name or return reason();
        # A folder that is now empty goes, since git has none.
        while (@parts) {
            my $folder = pop @parts;
            enter(0, @parts) && rmdir $folder or last;
        }
        return "done";
    }
    sub take {
        my ($size) = @_;
        my $data = "";
        while (length $data < $size) {
            read STDIN, $data, $size - length $data, length $data or die "the order did not arrive whole\n";
        }
        return $data;
    }
    while (defined(my $line = <STDIN>)) {
        my ($verb, $mode, $is_new, $length, $size) = $line =~ /^(put|remove) (\S+) (\S+) (\d+) (\d+)$/ or die "no order\n";
        my ($path, $content) = (take($length), take($size));
        die "no path of a workspace\n" if grep { /^(\.{0,2}|\.git)$/i } split m{/}, $path, -1;
        print $verb eq "put" ? put($path, $mode, $is_new, $content) : remove($path), "\n";
    }
'
