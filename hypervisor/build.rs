//! Passes the linker script to bare-metal links, and to those alone: on the host the binary is a plain program.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in [
        &format!("-T{folder}/link.ld"),
        "--no-pie",
        "--no-dynamic-linker",
        "-zmax-page-size=4096",
        "-znorelro",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
