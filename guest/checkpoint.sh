#!/bin/sh
# Records the workspace as a tree of git, and sends the objects that the host lacks.
#
# Arguments: workspace; the tree that the host had last, or `-`; the size in bytes above which a file is left out; the
# number of left-out paths to report; a mode; and for `branch` a commit whose tree the host has, or `-`. The modes:
#   now      the files as they are
#   fresh    the same without what is known here
#   branch   the commit at which the branch left its upstream or main
#   begin    the files as they are before the tool starts; nothing is printed. guest/start-record.sh runs this beside
#            the start and delays the tool for a moment, but not until this has ended.
#   start    what `begin` has recorded in this run of the container, or else the files as they are
#
# Prints a line `TREE COMMIT COUNT`, then COUNT entries `WHY PATH` with a NUL each, then a pack with the objects that
# TREE has and the known tree lacks, or nothing if they are the same. TREE is `-` if the host has the commit's tree. If
# there is nothing to record, the first line is `! WORD`: REFUSALS of clincus_features/review/recorder.py explains it.
#
# Git works in a repository of Clincus's own in the home, so the repository of the workspace with its index, HEAD and
# stash stays as it is, and is not needed. Its configuration, filters, hooks and attributes do not count: a file is
# recorded byte by byte. Files are left out if they are ignored (.gitignore, .git/info/exclude), too large, special or a
# repository of their own.
#
# The old content of a file that the tool changes while `begin` still reads may be lost. Such a path is reported as
# `late`. If git of the workspace knows the old file, that is recorded, and the path is not late. A path that ends with
# a slash is a folder in which the tool may have removed a file before the files were listed, and `.` is any path.
set -f
refuse() { echo "! $1"; exit 0; }
workspace=$1 known=$2 limit=$3 most=$4 mode=$5 base=$6 imported=no is_read=no
umask 077
LC_ALL=C
export LC_ALL limit
cd -- "$workspace" 2>/dev/null || refuse workspace
command -v git >/dev/null || refuse git
command -v perl >/dev/null || refuse perl
# A repository that an agent made may block git for ever, by a pipe in place of its HEAD.
user_git() { timeout 20 env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE -u GIT_ATTR_SOURCE git -c core.fsmonitor=false "$@" 2>/dev/null; }
GIT_DIR=$HOME/.clincus/shadow GIT_WORK_TREE=$PWD GIT_INDEX_FILE=$GIT_DIR/index
GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1
# Attributes come from the empty tree: a pipe in place of a .gitattributes would block git for ever. Git knows this since
# 2.41; an older one is ended by its time.
GIT_ATTR_SOURCE=4b825dc642cb6eb9a060e54bf8d69288fbee4904
export GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_CONFIG_NOSYSTEM GIT_CONFIG_GLOBAL GIT_ATTR_NOSYSTEM GIT_ATTR_SOURCE
[ -d "$HOME/.clincus" ] || mkdir -p "$HOME/.clincus" || refuse home
exec 9>"$GIT_DIR.lock" || refuse home
flock -w 20 9 || refuse home

# The tool waits for `begin`, so no unneeded program may start before its first look at the files.
make_repository() {
    [ ! -e "$GIT_DIR" ] && [ ! -L "$GIT_DIR" ] || rm -rf "$GIT_DIR"
    mkdir -p "$GIT_DIR/objects" "$GIT_DIR/refs" "$GIT_DIR/info" "$work" || refuse home
    echo 'ref: refs/heads/none' >"$GIT_DIR/HEAD"
    # Each file counts as a big one, so git writes all new ones into one pack, and not each into a file of its own.
    echo '[core]
    repositoryformatversion = 0
    bare = false
    fsmonitor = false
    autocrlf = false
    untrackedCache = false
    bigFileThreshold = 1
    compression = 1
    fsync = none
[pack]
    compression = 1
[gc]
    auto = 0' >"$GIT_DIR/config"
    echo '* -text !eol -crlf -ident -filter !working-tree-encoding' >"$GIT_DIR/info/attributes"
}
work=$GIT_DIR/work
if [ ! -f "$GIT_DIR/config" ] || [ "$mode" = fresh ]; then
    make_repository
else
    [ ! -e "$GIT_DIR/index.lock" ] && [ ! -e "$work" ] && [ ! -L "$work" ] || rm -rf "$GIT_DIR/index.lock" "$work"
    mkdir "$work" || refuse home
fi

# Reads the paths of `changed` and sorts them: `repository`, `large`, `out` with both, and `files` with all others.
# Exits with 3 if too many are left out. For `begin` it writes to `then` what later shows if a file was changed, as
# lines `INODE,MODE,SIZE,MTIME,CTIME PATH`, and makes `untimely` if the tool may have started before it had done so.
#
# If no file is known yet, it also writes all of them to `stream` for git fast-import, and those that it cannot read to
# `unreadable`: `git add` looks for each file among the recorded ones, which takes most of its time. No stream is left
# if the files have more than 1 GiB.
read_files() {
    # shellcheck disable=SC2016 # Perl's variables
    perl -0 -MFcntl=:DEFAULT,:mode -MTime::HiRes=lstat -e '
        use strict;
        my ($work, $mode, $is_first, $late) = @ARGV;
        sub list { open my $list, ">", "$work/$_[0]" or die; return $list }
        my ($repository, $large, $out, $files) = map { list($_) } qw(repository large out files);
        my ($left_out, @files) = (0);
        while (my $path = <STDIN>) {
            chomp $path;
            if ($path =~ s{/\z}{}) {
                print $_ "$path\0" for $repository, $out;
                $left_out++;
                next;
            }
            my @is = lstat $path;
            push @files, [$path, @is];
            if (@is && S_ISREG($is[2]) && $is[7] > $ENV{limit}) {
                print $_ "$path\0" for $large, $out;
                $left_out++;
            } else {
                print $files "$path\0";
            }
        }
        if ($mode eq "begin") {
            my $then = list("then");
            print $then join(",", @$_[2, 3, 8, 10, 11]) || "-", " $_->[0]\0" for @files;
            list("untimely") if -e $late || -e "$work/let-go";
        }
        exit 3 if $left_out > 2000;
        exit if $is_first eq "no";

        my ($mark, $total, @entries) = (0, 0);
        my ($unreadable, $stream) = map { list($_) } qw(unreadable stream);
        # The last changed one first: it is the most likely one to be changed next.
        for (sort { $b->[11] <=> $a->[11] } grep { @$_ > 1 } @files) {
            my ($path, @is) = @$_;
            my ($kind, $content) = ("120000", "");
            if (S_ISLNK($is[2])) {
                $content = readlink $path;
            } elsif (S_ISREG($is[2]) && $is[7] <= $ENV{limit}) {
                my $is_open = sysopen my $file, $path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK;
                if (!$is_open) {
                    print $unreadable "$path\0" if lstat $path;
                    next;
                }
                while (length $content <= $ENV{limit} && sysread $file, $content, 1 << 20, length $content) {}
                next if length $content > $ENV{limit};
                $kind = $is[2] & 0100 ? "100755" : "100644";
            } else {
                next;
            }
            if (($total += length $content) > 1 << 30) { unlink "$work/stream"; exit }
            print $stream "blob\nmark :", ++$mark, "\ndata ", length $content, "\n", $content, "\n";
            $path =~ s/(["\\\n])/sprintf "\\%03o", ord $1/ge;
            push @entries, "M $kind :$mark \"$path\"\n";
        }
        print $stream "commit refs/clincus/last\ncommitter clincus <> 0 +0000\ndata 0\n", @entries, "done\n";
        close $stream or unlink "$work/stream";
    ' "$work" "$mode" "$is_first" "$GIT_DIR.late" <"$work/changed"
}
# Records all files of `stream`. Fails if git does not accept a name; `git add` then leaves out only that file.
import_files() {
    all_is_read # before git packs it, which takes several times as long
    git -c core.bigFileThreshold=1g fast-import --quiet --done --force --depth=0 <"$work/stream" 2>/dev/null &&
        tree=$(git rev-parse -q --verify 'refs/clincus/last^{tree}') && git read-tree "$tree" 2>/dev/null && imported=yes
    code=$?
    rm -f "$work/stream"
    return "$code"
}

# Files that have changed, or are not known yet; a repository of its own is listed with a slash at its end.
list_changed() {
    timeout 20 git ls-files -z -o -m --exclude-standard
    code=$?
    [ "$code" != 124 ] || echo stuck >"$work/stuck"
    return "$code"
}
# Without folders that ignore themselves and contain nothing else, such as the wall's placeholders.
list_ignored() {
    # shellcheck disable=SC2016 # for the shell that xargs starts
    git ls-files -z -o -i --exclude-standard --directory | grep -zv -m "$most" '/\.gitignore$' |
        xargs -0 -r sh -c '
            for path; do
                case $path in */)
                    [ ! -e "./$path.gitignore" ] ||
                        [ -n "$(find "./$path" -mindepth 1 ! -name .gitignore -print -quit)" ] || continue ;;
                esac
                printf "%s\0" "$path"
            done' list
}

record_files() {
    exclude=$workspace/.git/info/exclude
    if [ -f "$exclude" ] && [ ! -L "$exclude" ]; then cat "$exclude"; fi >"$GIT_DIR/info/exclude" 2>/dev/null
    is_first=no
    [ -e "$GIT_INDEX_FILE" ] || is_first=yes
    list_changed >"$work/changed" || { [ ! -e "$work/stuck" ] || refuse stuck; return 1; }
    if [ "$is_first" = no ] && [ ! -s "$work/changed" ]; then
        for list in repository large unreadable "then"; do : >"$work/$list"; done
        [ ! -e "$GIT_DIR.late" ] || : >"$work/untimely"
        all_is_read
        git update-index -q --refresh >/dev/null 2>&1 # what was only touched is not read again the next time
        tree=$(git write-tree)
        return
    fi
    read_files
    code=$?
    [ "$code" != 3 ] || refuse large
    [ "$code" = 0 ] || return
    [ ! -f "$work/stream" ] || ! import_files || return 0
    [ ! -s "$work/out" ] || git update-index -z --force-remove --stdin <"$work/out" || return
    # No walk, which would record files at rest that the tool has changed meanwhile.
    [ "$mode" != begin ] || ! record_changed || return 0
    { printf '.\0'; sed -z 's|^|:(top,exclude,literal)|' "$work/out"; } |
        git add -A --ignore-errors --pathspec-from-file=- --pathspec-file-nul 2>"$work/errors"
    code=$?
    : >"$work/unreadable"
    if [ "$code" = 1 ]; then
        sed -z 's|/$||' "$work/out" | sort -z >"$work/left"
        list_changed | sed -z 's|/$||' | sort -zu | comm -z -23 - "$work/left" >"$work/unreadable"
    elif [ "$code" != 0 ]; then
        return 1 # such as a file that got shorter while it was read
    fi
    all_was_walked
    tree=$(git write-tree)
}

# -- Files that the tool may have changed before they were read

# Everything has been read: the tool need not wait any longer, and its changes from now on count as its work. If it
# has not waited, or if this is the second time that files are read, some of them may be late.
all_is_read() {
    [ "$mode" = begin ] || return 0
    if [ "$is_read" = yes ] || [ -e "$GIT_DIR.late" ]; then
        if [ -e "$work/untimely" ]; then list_touched <"$work/changed"; else list_changed_since_then; fi >"$work/late"
    fi
    let_go
}
# A walk has recorded everything that exists now, and finds more than was listed before.
all_was_walked() {
    [ "$mode" = begin ] || return 0
    if [ "$is_read" = yes ] || [ -e "$GIT_DIR.late" ]; then git ls-files -z | list_touched >"$work/late"; fi
    let_go
}
let_go() {
    [ -e "$work/let-go" ] || : >"$work/let-go"
    is_read=yes
    exec 8>&-
}
# Prints each line of `then` whose file was replaced or is gone.
list_changed_since_then() {
    # shellcheck disable=SC2016 # Perl's variables
    perl -0 -MTime::HiRes=lstat -ne '
        chomp;
        my ($then, $path) = split / /, $_, 2;
        my @is = lstat $path;
        print "$_\0" if $then ne (join(",", @is[1, 2, 7, 9, 10]) || "-");
    ' "$work/then"
}
# Prints `- PATH` for paths on stdin that were changed since the tool may have started, and for folders in which a file
# was created or removed since then. No program can choose the deciding time (ctime). If it is not that of this
# machine's clock, the answer is `- .`. A person's changes at that time are reported too.
list_touched() {
    since=$GIT_DIR.late
    [ -e "$since" ] || since=$work/let-go
    case $(stat -f -c %T .) in
        bcachefs | btrfs | ext2/ext3 | f2fs | overlayfs | tmpfs | xfs | zfs) ;;
        *)
            printf -- '- .\0'
            return
            ;;
    esac
    # shellcheck disable=SC2016 # Perl's variables
    { cat && find . -name .git -prune -o -type d -printf '%p/\0'; } | perl -0 -MTime::HiRes=stat,lstat -e '
        use strict;
        my ($since, $is_first) = ((stat shift)[9] - 0.001, shift eq "yes");
        while (my $path = <STDIN>) {
            chomp $path;
            my @is = lstat $path;
            # A listed file that is gone: if none was known before, it existed when it was listed.
            print "$path\0" if @is ? $is[10] >= $since : $is_first;
        }
    ' "$since" "$is_first" | sed -z 's|^\./\(.\)|\1|' | sort -z >"$work/touched"
    git check-ignore -z --stdin <"$work/touched" 2>/dev/null | sort -z >"$work/untold"
    comm -z -13 "$work/untold" "$work/touched" | sed -z 's|^|- |'
}
record_changed() {
    git -c core.bigFileThreshold=16m update-index -z --add --remove --replace --stdin <"$work/files" 2>/dev/null || return
    all_is_read
    tree=$(git write-tree)
}
# Gives late files the content that git of the workspace knows: its index has their old size and time.
mend_late() {
    [ ! -e "$work/all-late" ] || { printf '.\0' >"$work/late"; return; }
    [ -s "$work/late" ] || return 0
    index=$(user_git rev-parse --git-path index) && cp "$index" "$work/theirs" 2>/dev/null
    # shellcheck disable=SC2016 # Perl's variables
    perl -0 -MTime::HiRes=stat -e '
        use strict;
        my ($late, $theirs) = @ARGV;
        sub theirs { open my $git, "-|", qw(env -u GIT_DIR -u GIT_WORK_TREE), "GIT_INDEX_FILE=$theirs", "timeout", "20",
            qw(git --literal-pathspecs -c core.fsmonitor=false), @_ or die; return $git }
        my $taken = (stat $theirs)[9] // 0;
        open my $list, "<", $late or die;
        my @late = <$list>;
        my @left;
        for (@late[0 .. ($#late < 99 ? $#late : 99)]) {
            chomp;
            my ($size, $mtime, $path) = /^\d+,\d+,(\d+),([\d.]+),[\d.]+ (.*)$/s;
            if (!defined $path) { push @left, s/^\S+ //r . "\0"; next }
            local $/;
            my ($mode, $blob, $s, $ns, $length) =
                readline(theirs(qw(ls-files -s --debug -z --), $path)) =~
                /^(100\d+|120000) ([0-9a-f]{40}) 0\t.*?\0.*?mtime: (\d+):(\d+)\n.*?size: (\d+)/s;
            my $at = ($s // 0) + ($ns // 0) / 1e9;
            # A file that was changed in the moment in which git read it looks the same to git.
            my $is_known = defined $mode && $length == $size && abs($at - $mtime) < 2e-6 && $at < int $taken;
            my $content = $is_known ? readline theirs("cat-file", "blob", $blob) : undef;
            # Another length: git changes it by a filter or at line ends.
            if (!defined $content || length $content != $size) { push @left, "$path\0"; next }
            open my $git, "|-", "sh", "-c",
                q(blob=$(git hash-object -w --stdin) && git update-index --add --replace --cacheinfo "$0" "$blob" "$1"),
                $mode, $path or die;
            print $git $content;
            close $git or push @left, "$path\0";
        }
        push @left, map { s/^\S+ //r } @late[100 .. $#late];
        print @left;
    ' "$work/late" "$work/theirs" >"$work/left" 2>/dev/null || sed -z 's/^[^ ]* //' "$work/late" >"$work/left"
    mv "$work/left" "$work/late"
    tree=$(git write-tree) || exit 1
}

# Paths that are left out without a report by git, in folders that are not ignored.
list_special() {
    # shellcheck disable=SC2016 # for the shell that xargs starts
    grep -z -m 100 '/$' "$work/ignored" | xargs -0 timeout 2 sh -c '
        count=$#
        for folder; do set -- "$@" -path "./${folder%/}" -prune -o; done
        shift "$count"
        exec find . -name .git -prune -o "$@" \( -type b -o -type c -o -type p -o -type s \) -printf "%P\0"' find 2>/dev/null
}

take_files() {
    tries=6
    until record_files; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo 'files change faster than they are recorded:' >&2; tail -n 1 "$work/errors" >&2; exit 1; }
        sleep 0.2
    done
    mend_late
    commit=-
    list_ignored >"$work/ignored"
    list_special >"$work/special"
    for why in late large repository unreadable special ignored; do
        [ ! -s "$work/$why" ] || sed -z "s|^|$why |" "$work/$why"
    done | head -z -n "$most" >"$work/skipped"
}

take_branch() {
    user_git rev-parse -q --verify 'HEAD^{commit}' >/dev/null
    case $? in 0) ;; 124) refuse stuck ;; *) refuse commits ;; esac
    commit=''
    for other in '@{upstream}' origin/HEAD origin/main origin/master main master HEAD; do
        commit=$(user_git merge-base HEAD "$other") && [ -n "$commit" ] && break
    done
    : >"$work/skipped"
    if [ "$commit" = "$base" ]; then
        echo "- $commit 0"
        exit 0
    fi
    GIT_ALTERNATE_OBJECT_DIRECTORIES=$(user_git rev-parse --git-path objects)
    GIT_INDEX_FILE=$work/index
    export GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_INDEX_FILE
    git read-tree "$commit^{tree}" || exit 1
    # shellcheck disable=SC2016 # Perl's variables
    git ls-tree -r -l -z --full-tree "$commit" | perl -0 -ne '
        print "$2\0" if /^(?:160000 commit \w+ +-|\d+ blob \w+ +(\d+))\t(.*)\0/s && (!defined $1 || $1 > $ENV{limit})' |
        git update-index -z --force-remove --stdin || exit 1
    tree=$(git write-tree) || exit 1
}

# Identifies this run of the container: the time at which its first process began.
run_of() { sed 's/.*) //' /proc/1/stat | cut -d ' ' -f 20; }
# `begin` keeps its record for a later caller.
keep_start() {
    rm -rf "$GIT_DIR/start"
    mkdir "$GIT_DIR/start" && mv "$work/skipped" "$GIT_DIR/start/skipped" && echo "$(run_of) $tree" >"$GIT_DIR/start/tree"
    rm -rf "$work"
    [ "$imported" = no ] || git -c core.bigFileThreshold=1g update-index -q --refresh >/dev/null 2>&1
}
# True if this run of the container began less than 20 s ago.
is_young() { [ "$(($(date +%s) - $(stat -c %Z /proc/1)))" -lt 20 ]; }
tries=10
take_start() {
    run='' tree=''
    [ ! -f "$GIT_DIR/start/tree" ] || read -r run tree <"$GIT_DIR/start/tree"
    # Another server or command may have begun this run a moment ago: `begin` then comes after this.
    if [ "$run" != "$(run_of)" ] && [ "$tries" -gt 0 ] && is_young; then
        tries=$((tries - 1))
        { flock -u 9 && sleep 1 && flock -w 20 9; } || refuse home
        take_start
    elif [ "$run" = "$(run_of)" ] && git cat-file -e "$tree^{tree}" 2>/dev/null; then
        commit=-
        cp "$GIT_DIR/start/skipped" "$work/skipped"
    else
        : >"$work/all-late"
        take_files
    fi
}

case $mode in
    branch) take_branch ;;
    start) take_start ;;
    begin) take_files && keep_start; exit ;;
    *) take_files ;;
esac
if [ -s "$work/skipped" ]; then
    echo "$tree ${commit:--} $(tr -dc '\0' <"$work/skipped" | wc -c)"
    cat "$work/skipped"
else
    echo "$tree ${commit:--} 0"
fi
rm -rf "$work"
[ "$tree" != "$known" ] || exit 0
git cat-file -e "$known^{tree}" 2>/dev/null || known=-
{ echo "$tree"; [ "$known" = - ] || echo "^$known"; } |
    git pack-objects -q --revs --stdout --window=0 --delta-base-offset || exit 1
[ "$mode" != branch ] || exit 0
# The index learns the times of the files, so that the next run reads none of them again.
[ "$imported" = no ] || { git -c core.bigFileThreshold=1g update-index -q --refresh <&- >&- 2>&- & exit 0; }
# The next run needs only this tree.
[ "$(find "$GIT_DIR/objects/pack" -name '*.pack' 2>/dev/null | wc -l)" -lt 50 ] || {
    git update-ref refs/clincus/last "$tree"
    git repack -a -d -q --window=0 <&- >&- 2>&- &
}
exit 0
