//! The chapter *Write your first PV driver*, followed to the letter: its blocks make a crate outside the workspace, which is
//! built, booted, and reads its disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use trunnion_tests::system::{QEMU_SVM, Run};

const CHAPTER: &str = include_str!("../../docs/src/first-driver.md");

/// The block of a language that has these words in it.
fn block(language: &str, words: &str) -> &'static str {
    let mut blocks = CHAPTER.split("\n```").skip(1).step_by(2);
    let found = blocks.find_map(|block| block.strip_prefix(language).filter(|text| text.contains(words)));
    found.unwrap_or_else(|| panic!("no block of {language} has `{words}`")).trim_start_matches('\n')
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a release build of its own: TRUNNION_TIER=full runs it")]
fn the_first_chapter_followed_to_the_letter() {
    let run = Run::new(env!("CARGO_BIN_EXE_trunnion-driver"), QEMU_SVM);
    let folder = run.path().to_path_buf();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let checkout_name = checkout.display().to_string();
    let here = |text: &str| text.replace("…/trunnion", &checkout_name);
    fs::create_dir(folder.join("src")).expect("a folder");
    let rest = "// ... and the `use` lines and `first_sector` from above.";
    let main = block("rust,ignore", "#![no_main]");
    assert!(main.contains(rest), "the chapter says where the first block goes");
    let main = main.replace(rest, block("rust,ignore", "async fn first_sector"));
    for (name, text) in [
        ("Cargo.toml", here(block("toml", "[package]"))),
        ("build.rs", here(block("rust,ignore", "cargo:rustc-link-arg-bins"))),
        ("src/main.rs", main),
    ] {
        fs::write(folder.join(name), text).expect("the file can be written");
    }
    // The same versions as here, so that nothing has to be fetched.
    fs::copy(checkout.join("Cargo.lock"), folder.join("Cargo.lock")).expect("the lock file can be copied");
    let mut disk = b"TRUNNION first sector".to_vec();
    disk.resize(1 << 20, 0);
    fs::write(folder.join("disk.img"), disk).expect("the disk can be written");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--target", "x86_64-unknown-none"])
        .current_dir(&folder)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ended = run.domain("first", block("text", "name = \"first\"")).go(120);
    let wanted = block("text", "the disk begins with").trim();
    assert!(ended.console("first").contains(wanted), "{}\n{}", ended.console("first"), ended.report());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}
