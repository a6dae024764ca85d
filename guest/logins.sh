# shellcheck shell=sh
# Lets the programs of a container trust the authority of its session's logins. Root runs it before the tool starts, at
# each start. Arguments: the authority's subject hash, its certificate in PEM, and files that hold logins of earlier
# starts.
#
# Debian's program for it takes a second or two. This program writes the same: the file that Debian's program reads, so
# that its next run keeps the authority, the bundle, and the link that OpenSSL looks for. The tool waits meanwhile, so in
# a new container `ln` is the only process that it starts.
set -eu
hash=$1 certificate=$2
shift 2
trap '[ "$?" = 0 ] || echo "the container cannot take the authority of its logins" >&2' EXIT
umask 022
file=/usr/local/share/ca-certificates/clincus-logins.crt
bundle=/etc/ssl/certs/ca-certificates.crt
[ -d "${file%/*}" ] && [ -d "${bundle%/*}" ] || mkdir -p "${file%/*}" "${bundle%/*}"
# Without the authority of an earlier start, which is the last one unless somebody has changed the bundle since.
if [ -s "$file" ] && [ -s "$bundle" ]; then
    awk -v old="$(cat "$file")" '
        { text = text $0 "\n" }
        END { at = index(text, old "\n"); if (at) text = substr(text, 1, at - 1) substr(text, at + length(old) + 1)
            printf "%s", text }' "$bundle" >"$bundle.clincus"
    [ ! -s "$bundle.clincus" ] || cat "$bundle.clincus" >"$bundle"
    rm -f "$bundle.clincus"
fi
printf '%s\n' "$certificate" >"$file"
printf '%s\n' "$certificate" >>"$bundle"
ln -sf "$file" "/etc/ssl/certs/$hash.0"
[ "$#" = 0 ] || rm -rf -- "$@"
