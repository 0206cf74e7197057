# Sourced by the scripts that check more than a change needs: what they install, beside the build and not for the user.
# shellcheck shell=bash

# common.sh sets it.
tools=${build_root:?}/tools
PATH="$PATH:$tools/bin"

# `tool NAME VERSION`: the cargo subcommand NAME; one of the machine's own will do whatever its version.
tool() {
  command -v "cargo-$1" >/dev/null && return 0
  say "installing cargo-$1 $2 into $tools"
  # A target directory of its own: with ours, --locked would build its dependencies beside those of the crates.
  CARGO_TARGET_DIR="$tools/build" cargo install --quiet --locked --root "$tools" "cargo-$1@$2"
  rm -rf "$tools/build"
}
