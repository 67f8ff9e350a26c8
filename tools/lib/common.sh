# What tools/run, tools/build and tools/test share: where the tree is, and how a build folder is set
# up. shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD_ROOT=$ROOT/build
INSTALL_LOG=$BUILD_ROOT/install.log
mkdir -p "$BUILD_ROOT"
# shellcheck source=tools/lib/packages.sh
. "$ROOT/tools/lib/packages.sh"

die() {
  echo "error: $*" >&2
  exit 1
}

# The newest instruction set level that this processor has and the build knows: x86-64-v3 needs
# AVX2, BMI2 and FMA; any x86-64 server since 2009 has v2.
cpu_level() {
  local flags
  flags=$(grep -m1 '^flags' /proc/cpuinfo || true)
  case "$flags" in
    *avx2*bmi2* | *bmi2*avx2*) echo x86-64-v3 ;;
    *) echo x86-64-v2 ;;
  esac
}

# configure_build DIR COMPILER PRESET [MESON OPTION...]: makes or updates a build folder.
configure_build() {
  local dir=$1 compiler=$2 preset=$3
  shift 3
  local options=(-Dcpu="$(cpu_level)" "$@")
  # b_lundef=false: clang links the sanitizer's symbols only into executables.
  local sanitized=(-Doptimization=1 -Ddebug=true -Db_lundef=false)
  case "$preset" in
    release) options+=(-Dbuildtype=release) ;;
    debug) options+=(-Dbuildtype=debug) ;;
    asan) options+=("${sanitized[@]}" -Db_sanitize=address,undefined) ;;
    tsan) options+=("${sanitized[@]}" -Db_sanitize=thread) ;;
    *) die "unknown preset '$preset' (release, debug, asan, tsan)" ;;
  esac
  local cc cxx
  case "$compiler" in
    gcc) cc=gcc cxx=g++ ;;
    clang) cc=clang cxx=clang++ ;;
    *) die "unknown compiler '$compiler' (gcc, clang)" ;;
  esac
  local log=$BUILD_ROOT/configure-${dir##*/}.log
  local command=(meson setup "${options[@]}" "$dir" "$ROOT")
  # Meson remembers options; a folder that was set up with the same ones needs nothing here, ninja
  # reconfigures by itself when a meson.build changes.
  local stamp=$dir/.culvert-options
  if [ -f "$dir/build.ninja" ]; then
    [ "$(cat "$stamp" 2>/dev/null)" != "${options[*]}" ] || return 0
    command+=(--reconfigure)
  fi
  if ! CC="ccache $cc" CXX="ccache $cxx" "${command[@]}" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    die "could not configure $dir (full log: $log)"
  fi
  printf '%s' "${options[*]}" >"$stamp"
}
