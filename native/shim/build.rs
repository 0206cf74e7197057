//! Link arguments of the freestanding binary: no start files, no libc, fixed address.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_FREESTANDING").is_none() {
        return;
    }
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,-z,norelro", "-Wl,--build-id=none"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
