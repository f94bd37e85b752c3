//! The house test: limits on size, on unsafe code and on who depends on whom. It prints what it measures.

use trunnion_tests::house;

/// The budget for the hypervisor's code lines, both vendors together.
const HYPERVISOR_BUDGET: usize = 12_000;
/// What it may have until it is down to its budget (docs/src/decisions/0005-line-budget.md). Only ever lowered.
const HYPERVISOR_CEILING: usize = 12_000;
/// Most lines of a file.
const FILE_LINES: usize = 600;
/// Files that may be longer, each with its reason; none may pass 1,000 lines.
const LONG_FILES: &[(&str, &str)] = &[];
/// Where unsafe code may stand (docs/src/unsafe-rooms.md gives the invariant of each).
const UNSAFE_ROOMS: &[&str] = &[
    "hypervisor/src/machine/",
    "protocol/src/shared.rs",
    "guest/src/",
    "tests/guests/",
    "devices/tests/native/",
];
/// Which packages a package may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("manual", &[]),
    ("hypervisor", &["protocol", "manual"]),
    ("frontends", &["protocol"]),
    ("backends", &["protocol"]),
    ("devices", &["backends", "protocol"]),
    ("xenstore", &["protocol"]),
    ("guest", &["protocol", "frontends"]),
    ("dom0", &["guest", "backends", "devices", "xenstore", "protocol", "manual"]),
    ("cli", &["dom0", "protocol"]),
    ("docs/examples", &["protocol", "frontends", "guest"]),
    ("docs/vrng", &["protocol", "frontends", "guest"]),
];
const PACKAGES: &[&str] = &[
    "protocol",
    "manual",
    "hypervisor",
    "guest",
    "dom0",
    "frontends",
    "backends",
    "devices",
    "xenstore",
    "cli",
    "tests",
    "docs/examples",
    "docs/vrng",
];

#[test]
fn the_hypervisor_is_thin() {
    let lines = house::code_lines("hypervisor/src");
    println!("hypervisor: {lines} code lines, budget {HYPERVISOR_BUDGET}, ceiling {HYPERVISOR_CEILING}");
    for package in PACKAGES {
        println!("{package:>13}: {} code lines", house::code_lines(package));
    }
    assert!(
        lines <= HYPERVISOR_CEILING,
        "the hypervisor has {lines} code lines; {HYPERVISOR_CEILING} are allowed"
    );
}

#[test]
fn files_are_short() {
    let mut longest = (0, String::new());
    let mut too_long = Vec::new();
    for source in PACKAGES.iter().flat_map(|package| house::sources(package)) {
        let path = source.path.display().to_string();
        if source.lines > longest.0 {
            longest = (source.lines, path.clone());
        }
        let excused = LONG_FILES.iter().any(|(file, _)| *file == path);
        if source.lines > 1000 || (source.lines > FILE_LINES && !excused) {
            too_long.push(format!("{path}: {} lines", source.lines));
        }
    }
    println!("longest file: {} lines, {}", longest.0, longest.1);
    assert!(too_long.is_empty(), "files over {FILE_LINES} lines: {too_long:#?}");
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let mut outside = Vec::new();
    let mut inside = 0;
    for source in PACKAGES.iter().flat_map(|package| house::sources(package)) {
        let path = source.path.display().to_string();
        // The detector's own text and test name what it looks for.
        if path.starts_with("tests/src/house.rs") || path.starts_with("tests/tests/house.rs") {
            continue;
        }
        if UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
            inside += source.unsafe_lines.len();
        } else {
            outside.extend(source.unsafe_lines.iter().map(|line| format!("{path}:{line}")));
        }
    }
    println!("unsafe: {inside} places, all in the rooms {UNSAFE_ROOMS:?}");
    assert!(outside.is_empty(), "unsafe outside its rooms: {outside:#?}");
}

#[test]
fn arrows_point_down() {
    for (package, allowed) in ARROWS {
        let wrong: Vec<String> = house::dependencies(package)
            .into_iter()
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{package} depends on {wrong:?}; allowed are {allowed:?}");
    }
}

#[test]
fn code_is_counted_without_comments_and_tests() {
    let text = "//! head\n\nuse a;\n/* x\ny */\nfn f() {\n    // why\n    g();\n}\n#[cfg(test)]\nmod tests {\n    fn t() { unsafe { x() } }\n}\nfn h() {}\n";
    let source = house::measure("a/src/b.rs".into(), text);
    assert_eq!(source.code, 5);
    assert_eq!(source.unsafe_lines, [12]);
    assert_eq!(house::measure("a/src/tests.rs".into(), text).code, 0);
}
