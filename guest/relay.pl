# The container's end of the way to the proxy of a session on an engine: it listens at a port on 127.0.0.1 and carries
# each connection in frames over its stdin and stdout, which `incus exec` leads to the host.
# clincus_features/network/relay.py describes the frames.
#
# Arguments: port, and a file for the number and the owner of this process. The first line on stdin lets it begin:
# "take" or "wait", and the owner, which names the Clincus at the other end. It takes the port from an older relay of
# the same owner, and with "take" from another owner's. It then writes "ready"; "held" if it would have to wait for
# another owner's; or "taken" if another program has the port. It ends with its stdin, and after a time without any
# byte.
use strict;
use warnings;
use Errno qw(EAGAIN EINTR);
use IO::Handle;
use Socket;

use constant { OPEN => 1, DATA => 2, FIN => 3, CLOSE => 4, CREDIT => 5, PING => 6 };
use constant { PIECE => 16384, WINDOW => 262144, MOST => 256, FULL => 1 << 20, SILENT => 60 };

my ($port, $mine) = @ARGV;
my ($in, $out, $next, $heard, %streams) = ('', '', 1, time);
$0 = 'clincus-relay';
$SIG{PIPE} = 'IGNORE';
my $order = '';
for (my $byte = ''; $byte ne "\n"; $order .= $byte) { sysread(STDIN, $byte, 1) || exit }
my ($manner, $owner) = $order =~ /^(take|wait) ([0-9a-f]+)$/ or exit 1;
my ($said, $listener) = listen_at();
syswrite STDOUT, "$said\n";
exit 1 unless $listener;
$_->blocking(0) for \*STDIN, \*STDOUT, $listener;
turn() while time - $heard < SILENT;

# Listens at the port, in place of an older relay that still holds it. The result: the answer to send, and the socket.
sub listen_at {
    socket my $socket, PF_INET, SOCK_STREAM, 0 or die;
    setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1;
    for my $try (0 .. 60) {
        if (bind($socket, sockaddr_in($port, INADDR_LOOPBACK)) && listen $socket, 128) {
            if (open my $file, '>', $mine) { print $file "$$ $owner" }
            return 'ready', $socket;
        }
        open my $file, '<', $mine or return 'taken';
        my ($old, $other) = (<$file> // '') =~ /^(\d+)(?: ([0-9a-f]+))?$/ or return 'taken';
        if (open my $line, '<', "/proc/$old/cmdline") {
            my $command = <$line> // ''; # which a process loses before its sockets when it ends
            return 'taken' if length $command && $command !~ /^clincus-relay\b/;
            return 'held' if length $command && $manner eq 'wait' && ($other // '') ne $owner;
            kill $try < 20 ? 'TERM' : 'KILL', $old if length $command;
        }
        select undef, undef, undef, 0.05;
    }
    return 'taken';
}

# Waits until something can be done, and does it.
sub turn {
    my ($reads, $writes) = ('', '');
    vec($reads, fileno STDIN, 1) = 1;
    vec($reads, fileno $listener, 1) = 1 if keys %streams < MOST && length $out < FULL;
    vec($writes, fileno STDOUT, 1) = 1 if length $out;
    for my $one (values %streams) {
        vec($reads, fileno $one->{socket}, 1) = 1 if $one->{credit} && !$one->{said_end} && length $out < FULL;
        vec($writes, fileno $one->{socket}, 1) = 1 if length $one->{waiting};
    }
    return if select($reads, $writes, undef, SILENT / 4) <= 0;
    for my $id (keys %streams) {
        my $one = $streams{$id};
        my $number = fileno $one->{socket};
        take_from($id, $one) if vec $reads, $number, 1;
        give_to($id, $one) if $streams{$id} && vec $writes, $number, 1;
    }
    hear() if vec $reads, fileno STDIN, 1;
    begin() if vec $reads, fileno $listener, 1;
    return unless length $out;
    my $count = syswrite STDOUT, $out;
    defined $count ? substr($out, 0, $count, '') : $! == EAGAIN || $! == EINTR || exit;
}

sub send_frame {
    my ($kind, $id, $content) = @_;
    $out .= pack('CxnN', $kind, length $content, $id) . $content;
}

# Takes a new connection of a program.
sub begin {
    accept(my $socket, $listener) or return;
    $socket->blocking(0);
    $streams{$next} = { socket => $socket, waiting => '', credit => WINDOW };
    send_frame(OPEN, $next++, '');
}

# Reads from a program.
sub take_from {
    my ($id, $one) = @_;
    my $most = $one->{credit} < PIECE ? $one->{credit} : PIECE;
    my $count = sysread($one->{socket}, my $data, $most);
    if (!defined $count) {
        drop($id) unless $! == EAGAIN || $! == EINTR;
    } elsif ($count) {
        $one->{credit} -= $count;
        send_frame(DATA, $id, $data);
    } else {
        $one->{said_end} = 1;
        send_frame(FIN, $id, '');
        finish($id, $one);
    }
}

# Writes waiting bytes to a program.
sub give_to {
    my ($id, $one) = @_;
    if (length $one->{waiting}) {
        my $count = syswrite $one->{socket}, $one->{waiting};
        if (defined $count) {
            substr $one->{waiting}, 0, $count, '';
            send_frame(CREDIT, $id, pack 'N', $count) unless $one->{closed};
        } elsif ($! != EAGAIN && $! != EINTR) {
            return drop($id);
        }
    }
    finish($id, $one);
}

# Passes on the end of one direction, and forgets a connection of which both have ended.
sub finish {
    my ($id, $one) = @_;
    return if length $one->{waiting};
    delete $streams{$id} if $one->{closed} || ($one->{heard_end} && $one->{said_end});
    shutdown $one->{socket}, 1 if $one->{heard_end} && !$one->{shut}++;
}

# A program has broken its connection.
sub drop {
    my ($id) = @_;
    send_frame(CLOSE, $id, '') unless $streams{$id}{closed};
    delete $streams{$id};
}

# Reads frames of the host.
sub hear {
    my $count = sysread STDIN, $in, 1 << 17, length $in;
    exit if defined $count ? !$count : $! != EAGAIN && $! != EINTR;
    $heard = time;
    my $at = 0;
    while (length($in) >= $at + 8) {
        my ($kind, $size, $id) = unpack 'CxnN', substr $in, $at, 8;
        last if length($in) < $at + 8 + $size;
        obey($kind, $id, substr $in, $at + 8, $size);
        $at += 8 + $size;
    }
    substr $in, 0, $at, '';
}

sub obey {
    my ($kind, $id, $content) = @_;
    my $one = $streams{$id};
    if ($kind == PING) {
        send_frame(PING, 0, '');
    } elsif (!$one) {
        return; # it has ended here
    } elsif ($kind == DATA) {
        $one->{waiting} .= $content;
        give_to($id, $one);
    } elsif ($kind == FIN) {
        $one->{heard_end} = 1;
        finish($id, $one);
    } elsif ($kind == CLOSE) {
        $one->{closed} = $one->{said_end} = 1;
        finish($id, $one);
    } elsif ($kind == CREDIT) {
        $one->{credit} += unpack 'N', $content;
    }
}
