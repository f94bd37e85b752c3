//! Gives the guests the linker script of the runtime.

fn main() {
    println!("cargo:rerun-if-changed=../../guest/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{folder}/../../guest/image.ld");
        println!("cargo:rustc-link-arg-bins=-znorelro");
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
