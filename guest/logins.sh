# shellcheck shell=sh
# Lets the programs of a container trust the authority of its session's logins (PEM on stdin). Root runs it before the
# tool starts, at each start. Arguments: the authority's subject hash, and files that hold logins of earlier starts.
#
# Debian's program for it takes a second or two. This program writes the same: the file that Debian's program reads, so
# that its next run keeps the authority, the bundle, and the link that OpenSSL looks for.
set -eu
hash=$1
shift
file=/usr/local/share/ca-certificates/clincus-logins.crt
bundle=/etc/ssl/certs/ca-certificates.crt
mkdir -p "${file%/*}" "${bundle%/*}"
old=$(cat "$file" 2>/dev/null || :)
cat >"$file"
chmod 644 "$file"
if [ -s "$bundle" ]; then
    # Without the authority of an earlier start, which is the last one unless somebody has changed the bundle since.
    [ -z "$old" ] || awk -v old="$old" '
        { text = text $0 "\n" }
        END { at = index(text, old "\n"); if (at) text = substr(text, 1, at - 1) substr(text, at + length(old) + 1)
            printf "%s", text }' "$bundle" >"$bundle.clincus"
    [ ! -s "$bundle.clincus" ] || cat "$bundle.clincus" >"$bundle"
    rm -f "$bundle.clincus"
fi
cat "$file" >>"$bundle"
ln -sf "$file" "/etc/ssl/certs/$hash.0"
[ "$#" = 0 ] || rm -rf -- "$@"
