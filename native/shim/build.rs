//! Link arguments of the freestanding binary: no start files, no libc, fixed address, one segment.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link.ld");
    if std::env::var_os("CARGO_FEATURE_FREESTANDING").is_none() {
        return;
    }
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,-z,norelro",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-T",
        concat!(env!("CARGO_MANIFEST_DIR"), "/link.ld"),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
