#!/usr/bin/env bash
# Prints the path of the newest cloud kernel of a Debian suite, after fetching it where it is not there yet.
#
# Which one is the newest is asked of the archive each time, through apt with a configuration of its own: of the machine's
# sources only the mirror is taken. Where the archive cannot be reached, the newest one fetched before does.
#
# usage: fetch.sh SUITE DIRECTORY
set -euo pipefail
here=$(dirname "$0")
suite=$1
directory=$(realpath -m "$2")
apt=$directory/apt/$suite
mkdir -p "$apt"/{state/lists/partial,cache/archives/partial} "$directory/images"
touch "$apt/status"
cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
CONF
mirrors=$("$here/mirror.sh" 2>"$apt/update.log") || mirrors=
export APT_CONFIG=$apt/apt.conf

# A suite moves to the folder of the archived ones when its support ends. Not every mirror has that folder.
update() {
  local signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]' main security folder
  read -r main security <<<"$mirrors" && [ -n "$main" ] || return 1
  for folder in "" /debian-archive; do
    printf '%s\n' "deb $signed ${main%/*}$folder/${main##*/} $suite main" \
      "deb $signed ${security%/*}$folder/${security##*/} $suite-security main" >"$apt/sources.list"
    if apt-get update -qq 2>"$apt/update.log"; then return 0; fi
  done
  return 1
}

if update; then
  package=$(apt-cache depends --important linux-image-cloud-amd64 | awk '$1 == "Depends:" && /linux-image/ { print $2; exit }')
  image=$directory/images/$suite-$package
  if [ ! -s "$image" ]; then
    (cd "$apt/cache" && rm -f linux-image-*.deb && apt-get download -qq "$package" >&2)
    dpkg-deb --fsys-tarfile "$apt"/cache/linux-image-*.deb | tar -xO --wildcards './boot/vmlinuz-*' >"$image.partial"
    rm -f "$apt"/cache/linux-image-*.deb
    mv "$image.partial" "$image"
  fi
  ln -sfn "$image" "$directory/images/$suite"
elif [ -e "$directory/images/$suite" ]; then
  echo "the Debian archive cannot be reached ($(tail -n1 "$apt/update.log")); taking the kernel fetched before" >&2
else
  cat "$apt/update.log" >&2
  echo "cannot fetch a kernel of Debian $suite" >&2
  exit 1
fi
realpath "$directory/images/$suite"
