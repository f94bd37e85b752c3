//! What the house test measures: code lines, file lengths, unsafe blocks, dependency arrows.
//!
//! The counting is textual and deliberately simple. A *code line* is a line that is neither blank nor only a comment,
//! outside modules and files that exist for tests.

use std::fs;
use std::path::{Path, PathBuf};

/// One Rust source file, with what was counted in it.
#[derive(Debug)]
pub struct Source {
    /// Path relative to the workspace root.
    pub path: PathBuf,
    /// All lines.
    pub lines: usize,
    /// Code lines outside tests.
    pub code: usize,
    /// Line numbers of `unsafe` blocks, functions and implementations.
    pub unsafe_lines: Vec<usize>,
}

/// The workspace's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Every Rust source file below a folder of the workspace, in order of path.
pub fn sources(folder: &str) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    collect(&root.join(folder), &mut found);
    found.sort();
    found
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            Some(measure(path.strip_prefix(&root).unwrap_or(&path).to_path_buf(), &text))
        })
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != ".git") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// True for a file that only tests compile.
fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    name == "tests"
        || name == "fake"
        || name.ends_with("_tests")
        || path.iter().any(|part| part == "tests" || part == "fake")
}

/// Counts the lines of a file.
pub fn measure(path: PathBuf, text: &str) -> Source {
    let mut code = 0;
    let mut unsafe_lines = Vec::new();
    let mut in_comment = false;
    // Depth of braces inside a `#[cfg(test)]` item; `Some(0)` waits for its first brace.
    let mut test_item: Option<i32> = None;
    let skip_file = is_test_file(&path);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if in_comment {
            in_comment = !line.contains("*/");
            continue;
        }
        if line.starts_with("/*") {
            in_comment = !line.contains("*/");
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        if names_unsafe(line) {
            unsafe_lines.push(index + 1);
        }
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            test_item = Some(0);
            continue;
        }
        if let Some(depth) = &mut test_item {
            let opened = *depth > 0 || line.contains('{');
            *depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
            if (opened && *depth <= 0) || (!opened && line.ends_with(';')) {
                test_item = None;
            }
            continue;
        }
        if !skip_file {
            code += 1;
        }
    }
    Source { path, lines: text.lines().count(), code, unsafe_lines }
}

/// True when a line opens an unsafe block, function or implementation. Attributes (`#[unsafe(no_mangle)]`) count as well.
fn names_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "#[unsafe("]
        .iter()
        .any(|form| code.contains(form))
}

/// Code lines below a folder, tests not counted.
pub fn code_lines(folder: &str) -> usize {
    sources(folder).iter().map(|source| source.code).sum()
}

/// The packages of this workspace that a package's manifest names as ordinary (not test) dependencies.
pub fn dependencies(package: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap_or_default();
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("dev-dependencies");
        } else if inside && let Some(name) = line.strip_prefix("trunnion-") {
            let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found
}
