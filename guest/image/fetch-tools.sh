#!/bin/sh
# Fetches the tools from npm: fetch-tools.sh [NAME PACKAGE BINARY]...
# npm itself knows the user's registry, its credentials (in npmrc beside this file) and its proxy, and checks the
# integrity of its downloads. `npm pack` runs none of a package's scripts. The image is built without a tool that
# cannot be fetched: a program in its place gives the reason. ROOT is a folder to install below, for tests.
set -u
root=${ROOT:-}
work=$(cd "$(dirname "$0")" && pwd) && mkdir -p "$root/opt/clincus/bin" "$root/usr/local/bin" && cd "$work" || exit 1
export HOME="$work" npm_config_cache="$work/cache" npm_config_update_notifier=false
[ ! -e npmrc ] || export npm_config_userconfig="$work/npmrc"
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e $certificates ]; then
  export NODE_EXTRA_CA_CERTS=$certificates
  unset npm_config_cafile SSL_CERT_FILE SSL_CERT_DIR
fi

fetch() { # NAME PACKAGE BINARY
  echo "clincus: fetching $1"
  program="$root/opt/clincus/bin/$1"
  if archive=$(npm pack --loglevel=error "$2" 2>"$1.log") && archive=$(printf '%s\n' "$archive" | tail -1) &&
    tar -xzf "$archive" --no-same-owner "package/$3" package/package.json 2>>"$1.log"; then
    install -m 0755 "package/$3" "$program"
    version=$(grep -o '"version" *: *"[^"]*"' package/package.json | head -1 | cut -d'"' -f4)
    echo "clincus: tool $1 ${version:-unknown}"
  else
    # npm 9 says "npm ERR!", npm 10 "npm error"; codes come before the sentence, and the place of a log after it.
    reason=$(sed -E '/A complete log/,$d; s/^npm (ERR!|error) //; /^(code|errno|syscall) /d; /^ *$/d' "$1.log" |
      head -1 | cut -c1-300)
    cat >"$program" <<MISSING
#!/bin/sh
echo '$1 is not in this image: it could not be fetched when the image was built.' >&2
echo 'Run clincus build --force on the host when the npm registry can be reached.' >&2
exit 127
MISSING
    chmod 0755 "$program"
    echo "clincus: missing $1 ${reason:-npm gave no reason}"
  fi
  rm -rf package ./*.tgz
  ln -sf "/opt/clincus/bin/$1" "$root/usr/local/bin/$1"
}

while [ $# -ge 3 ]; do
  fetch "$1" "$2" "$3"
  shift 3
done
