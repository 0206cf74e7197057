# Sourced by script/kernels: the second disk with Leash and the trial, and a boot.
# shellcheck shell=bash

# One guest with all of its situations has to fit.
boot_seconds=${LEASH_KERNELS_SECONDS:-900}
payload=

# `record KERNEL SITUATION KIND NAME DETAIL`: one line of the results.
record() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$results/lines"; }

# Sets `payload`: this Leash as it was compiled, the VM program, the judge, and the observer.
make_payload() {
  local ebin
  payload=$chroot_cache/kernels/payload.$$
  # shellcheck disable=SC2064 # the path of now
  trap "rm -rf '$payload' '$payload.tar'; name_failed_phase" EXIT
  rm -rf "$payload"
  mkdir -p "$payload/leash" "$payload/beam"
  env MIX_ENV=test mix compile
  ebin=$(env MIX_ENV=test mix run --no-start --no-compile -e 'IO.puts(Application.app_dir(:leash, "ebin"))')
  cp -RL "$ebin" "$(dirname "$ebin")/priv" "$payload/leash/"
  elixirc -pa "$ebin" -o "$payload/beam" "$kernels_dir/guest/vm.ex"
  cc -O2 -Wall -Wextra -Werror -static -o "$payload/look" "$kernels_dir/guest/look.c"
  cp -R "$kernels_dir"/guest/{judge.py,lab.py,run-vm,situations} "$payload/"
  # Units with another User= have to reach it.
  chmod -R a+rX "$payload"
}

# `boot KERNEL SITUATION`: adds what the judge in the guest says to the results.
boot() {
  local kernel=$1 situation=$2 dir console began=$SECONDS disk=$payload.tar
  dir=$(kernel_dir "$kernel")
  console=$results/$kernel.$situation.log
  say "$situation" >"$payload/situation"
  rm -rf "$payload/modules"
  cp -R "$dir/modules" "$payload/"
  tar -C "$payload" -cf "$disk" .
  truncate -s %512 "$disk"
  timeout "$boot_seconds" qemu-system-x86_64 -accel tcg,thread=multi -machine q35 -smp 2 -m 1024 -nodefaults -nographic \
    -no-reboot -serial stdio -snapshot -drive "file=$image,format=raw,if=virtio" \
    -drive "file=$disk,format=raw,if=virtio" -device virtio-rng-pci -kernel "$dir/vmlinuz" -initrd "$dir/initramfs.gz" \
    -append "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off systemd.show_status=0" \
    </dev/null >"$console" 2>&1 || true
  tr -d '\r' <"$console" | sed -n "s/.*TRIAL\t/$kernel\t$situation\t/p" >>"$results/lines"
  if ! grep -q 'TRIAL.done' "$console"; then
    record "$kernel" "$situation" red "the guest" "did not come to its end within $boot_seconds s: $console"
  fi
  record "$kernel" "$situation" took seconds "$((SECONDS - began))"
}
