#!/bin/sh
# Makes a plain Debian or Ubuntu an image of Clincus: provision.sh USER UID [INIT]
# INIT becomes the system's /sbin/init; without it the system keeps its own. Every line may run twice.
set -eu
user=$1 uid=$2 init=${3:-}
holder=$(getent passwd "$uid" | cut -d: -f1)
if [ -n "$holder" ] && [ "$holder" != "$user" ]; then
  # Ubuntu's images have a user of their own with uid 1000.
  usermod --login "$user" --home "/home/$user" --move-home "$holder"
  groupmod --new-name "$user" "$(id -gn "$user")"
elif [ -z "$holder" ]; then
  groupadd --gid "$uid" "$user"
  useradd --create-home --uid "$uid" --gid "$uid" --shell /bin/bash "$user"
fi
printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$user" >/etc/sudoers.d/clincus
chmod 0440 /etc/sudoers.d/clincus
mkdir -p /workspace
chown "$uid:$uid" /workspace
# The workspace and its mounts may belong to another id than that of the user who runs git.
git config --system --replace-all safe.directory '*'
if ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1; then update-ca-certificates >/dev/null 2>&1; fi
[ -z "$init" ] || ln -sf "$init" /usr/sbin/init
