# The Debian packages that Culvert builds, tests and is tried with, and the function that installs
# the missing ones. Sourced by tools/run, tools/build and tools/test. Names must exist in Debian 12
# and 13. shellcheck shell=bash

# What a build needs. meson.build asks for each library by dependency(); keep both in step.
BUILD_PACKAGES=(
  meson ninja-build pkg-config g++ ccache
  liburing-dev libssl-dev libjemalloc-dev libsqlite3-dev libtomlplusplus-dev libcli11-dev
  nlohmann-json3-dev libspdlog-dev libfmt-dev libboost-dev libsystemd-dev libcap-dev libpcap-dev
  libutf8proc-dev libdpdk-dev libnl-route-3-dev
  clang libbpf-dev libxdp-dev
)

# What tools/test needs beyond that.
TEST_PACKAGES=(
  llvm clang-tidy clang-format libgtest-dev libbenchmark-dev
  git python3 iproute2 iputils-ping nftables procps valgrind dpdk-dev
  curl openssh-server openssh-client
)

# Foreign clients and servers that the interoperability tests talk to.
PEER_PACKAGES=(
  coturn chromium python3-venv golang-go libnice-dev libglib2.0-dev prometheus
)

# What tools/run's last line, the one to try, needs.
TRY_PACKAGES=(coturn)

# Clang's sanitizer and fuzzer runtimes are only a recommendation of clang's, and their package's
# name carries clang's version, which differs between Debian releases.
clang_runtime_package() {
  local versioned
  versioned=$(apt-cache depends clang 2>/dev/null | sed -n 's/^ *Depends: \(clang-[0-9]*\)$/\1/p')
  [ -n "$versioned" ] && printf 'libclang-rt-%s-dev\n' "${versioned#clang-}"
}

package_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints those of the packages named that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    package_installed "$package" || printf '%s\n' "$package"
  done
}

# Keeps packages (coturn) from starting their service while they are installed: a policy-rc.d that
# says 101, "forbidden". One that is already there is left alone if it forbids too, else put back
# afterwards.
POLICY_FILE=/usr/sbin/policy-rc.d
POLICY_OURS=
forbid_services() {
  if [ -x "$POLICY_FILE" ]; then
    local answer=0
    "$POLICY_FILE" culvert-probe start >/dev/null 2>&1 || answer=$?
    [ "$answer" != 101 ] || return 0
    as_root mv "$POLICY_FILE" "$POLICY_FILE.culvert-saved"
  fi
  POLICY_OURS=yes
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY_FILE" >/dev/null
  as_root chmod 755 "$POLICY_FILE"
}
restore_services() {
  [ -n "$POLICY_OURS" ] || return 0
  as_root rm -f "$POLICY_FILE"
  if [ -e "$POLICY_FILE.culvert-saved" ]; then
    as_root mv "$POLICY_FILE.culvert-saved" "$POLICY_FILE"
  fi
  POLICY_OURS=
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# install_packages PACKAGE...: installs what is missing; nothing to do costs no privilege and no
# network. Fails with one clear message when it may not or cannot install.
install_packages() {
  local missing status=0
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "error: this needs Debian 12 or 13 (no apt-get here); missing: ${missing[*]}" >&2
    return 1
  fi
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    echo "error: packages are missing, and installing them needs root. As root, run:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    return 1
  fi
  echo "installing ${#missing[@]} packages: ${missing[*]}"
  update_package_lists || return 1
  # Ctrl-C ends apt-get, not us: the service policy has to be put back first.
  local interrupted=
  trap 'interrupted=yes' INT TERM
  forbid_services
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -q "${missing[@]}" </dev/null \
    >"${INSTALL_LOG:-/dev/null}" 2>&1 || status=$?
  restore_services
  trap - INT TERM
  [ -z "$interrupted" ] || exit 130
  if [ "$status" != 0 ]; then
    echo "error: apt-get could not install: ${missing[*]}" >&2
    [ -z "${INSTALL_LOG:-}" ] || tail -n 20 "$INSTALL_LOG" >&2
  fi
  return "$status"
}

# Once per run of a script, and only if something is missing.
PACKAGE_LISTS_FRESH=
update_package_lists() {
  [ -z "$PACKAGE_LISTS_FRESH" ] || return 0
  if ! as_root apt-get update -q -o DPkg::Lock::Timeout=300 >"${INSTALL_LOG:-/dev/null}" 2>&1; then
    echo "error: apt-get update failed; is this machine able to reach its package mirror?" >&2
    return 1
  fi
  PACKAGE_LISTS_FRESH=yes
}
