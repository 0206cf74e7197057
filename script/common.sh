# Sourced by the scripts: the working directory, the search path and what they share.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# rustup puts cargo there and changes the PATH of login shells only.
if [ -d "$HOME/.cargo/bin" ]; then
  case ":$PATH:" in
    *":$HOME/.cargo/bin:"*) ;;
    *) PATH="$HOME/.cargo/bin:$PATH" ;;
  esac
fi
export PATH

# A bare machine has no locale, and the VM then takes file names for latin1 and says so at each start.
export LC_ALL="${LC_ALL:-C.UTF-8}"

# One build of the crates for Mix, cargo test and the lints.
build_root="${MIX_BUILD_ROOT:-$PWD/_build}"
if [ -n "${MIX_BUILD_PATH:-}" ]; then
  build_root=$MIX_BUILD_PATH
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$build_root/leash-cargo}"

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# `at_least 1.91 1.9.3`: whether the second version is as new as the first.
at_least() {
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# The oldest Rust that builds the crates, from the one place where it is written down.
rust_needed() {
  sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' Cargo.toml | head -n 1
}

# The version of cargo, nothing where it is absent or does not run.
rust_found() {
  cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p' || true
}

# Runs a phase under its name and prints how long it took. Nothing may follow the command with `||`: that
# would turn off `set -e` inside a phase that is a function.
phase() {
  local began=$SECONDS
  running_phase=$1
  say "== $running_phase"
  shift
  "$@"
  say "== $running_phase: $((SECONDS - began)) s"
  running_phase=
}

running_phase=
name_failed_phase() {
  local status=$?
  if [ "$status" != 0 ] && [ -n "$running_phase" ]; then
    printf '== %s failed with status %d\n' "$running_phase" "$status" >&2
  fi
}
trap name_failed_phase EXIT
