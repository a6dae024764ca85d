#!/bin/sh
# In the container as ~/.clincus/hook: appends the report of a tool's hook to ~/.clincus/agent/events, one line of JSON.
#
# Arguments: the name of the event, and its handling: `brief` keeps only a few words of stdin, `whole` keeps
# long texts; `only=WORD` is for events that contain it; `from=PID` is the process that runs the hook; `ring` rings
# afterwards, which makes the server look. It never fails and never waits: a tool may run a hook before each step, and
# may take an error for a "no".
#
# Each tool of that kind in the container has these hooks. Only the tool of the session counts: it descends from the
# process in `run`, and is the first one there that runs a hook. `tool` has its process, and the time at which it began.
# shellcheck disable=SC2016 # Perl's variables
cd "$HOME/.clincus/agent" 2>/dev/null && perl -MTime::HiRes=time -MFcntl=:DEFAULT,:flock -e '
    alarm 5;
    my ($event, %how) = (shift, map { $_ => 1 } @ARGV);
    # The parent of a process, and the time at which it began.
    sub look_at {
        open my $stat, "<", "/proc/$_[0]/stat" or return (0, 0);
        return (split " ", <$stat> =~ s/.*\) //sr)[1, 19];
    }
    sub line_of { open my $file, "<", $_[0] or return ""; return <$file> // "" }
    my ($from) = map { /^from=(\d+)$/ } keys %how;
    my ($run) = line_of("run") =~ /^(\d+)/;
    if ($from && $run) {
        my ($one, $began) = ($from, (look_at($from))[1]);
        ($one) = look_at($one) for 1 .. ($one == $run ? 0 : 1);
        for (1 .. 100) { last if $one < 2 || $one == $run; ($one) = look_at($one) }
        exit if $one != $run;
        my ($tool, $since) = line_of("tool") =~ /^(\d+) (\d+)$/;
        exit if $tool && $tool != $from && $since == (look_at($tool))[1];
        if (!$tool || $tool != $from || $since != $began) {
            sysopen my $file, "tool", O_WRONLY | O_TRUNC | O_CREAT | O_NOFOLLOW, 0600 or exit;
            syswrite $file, "$from $began\n";
        }
    }
    my ($data, $piece) = ("", "");
    # A hook gets the end of its input at once, or not at all.
    while (length $data < 300_000 && sysread STDIN, $piece, 65536) { $data .= $piece }
    $data =~ s/[\r\n]+/ /g;
    for my $word (map { /^only=(\w+)$/ } keys %how) { exit if index($data, qq("$word")) < 0 }
    if ($how{brief}) {
        my %kept;
        my $head = substr $data, 0, 2000;
        for my $key (qw(tool_name agent_id source notification_type toolName)) {
            $kept{$key} = $1 if $head =~ /"$key"\s*:\s*"([\w .:-]{1,80})"/;
        }
        $data = "{" . join(",", map { qq("$_":"$kept{$_}") } sort keys %kept) . "}";
    } else {
        # Each text is cut, so that the rest stays JSON.
        my $most = $how{whole} ? 30000 : 500;
        $data =~ s{"((?:[^"\\]++|\\.)*+)"}{
            my $text = $1;
            $text = substr $text, 0, $most if length $text > $most;
            $text =~ s/(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$/$1/;
            qq("$text");
        }ge;
    }
    $data = "{}" if $data !~ /^\s*\{.*\}\s*$/s || length $data > ($how{whole} ? 60000 : 8000);
    $event =~ s/[^\w.-]//g;
    my $line = sprintf qq({"at":%.3f,"event":"%s","data":%s}\n), time, substr($event, 0, 60), $data;
    # The one hook that holds a full file puts it aside; the others then begin the new one.
    for (1 .. 9) {
        sysopen my $file, "events", O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0600 or exit;
        flock $file, LOCK_EX or exit;
        next if (stat $file)[1] != ((stat "events")[1] // 0);
        if (-s $file > 131072) { rename "events", "events.old"; next }
        syswrite $file, $line;
        last;
    }
    exit if !$how{ring} || fork;
    open STDIN, "<", "/dev/null"; open STDOUT, ">", "/dev/null"; open STDERR, ">", "/dev/null";
    exec "$ENV{HOME}/.clincus/ring";
' "$@" >/dev/null 2>&1
exit 0
