//! Link arguments of the tiny machine guests, and `cfg(full_tier)` when the slow tests are wanted.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=guests/link.ld");
    println!("cargo:rerun-if-env-changed=TRUNNION_TIER");
    println!("cargo:rustc-check-cfg=cfg(full_tier)");
    if std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full") {
        println!("cargo:rustc-cfg=full_tier");
    }
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for argument in
            [format!("-T{folder}/guests/link.ld"), "--no-pie".into(), "-zmax-page-size=4096".into()]
        {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
