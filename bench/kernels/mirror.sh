#!/usr/bin/env bash
# Prints where Debian's packages come from, as two URIs: the archive and the security archive.
#
# Both are taken from this machine's own sources, so that a mirror or proxy that it was given is used here too. A machine
# that is not Debian's has none: there PYRITE_DEBIAN_MIRROR names one, with the security archive beside it.
#
# usage: mirror.sh
set -euo pipefail
main=${PYRITE_DEBIAN_MIRROR:-} security=
if [ -z "$main" ]; then
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || true
  # Of several sources of a suite the first.
  uri() { [ -z "$suite" ] || awk -v release="$1" '$2 == release && $3 == "main" && !seen++ { print $1 }' <<<"$sources"; }
  sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages')
  main=$(uri "$suite")
  security=$(uri "$suite-security")
fi
if [ -z "$main" ]; then
  echo "apt has no source of Debian packages here; name a mirror: PYRITE_DEBIAN_MIRROR=URI make kernels" >&2
  exit 1
fi
main=${main%/}
security=${security:-$main-security}
echo "$main ${security%/}"
