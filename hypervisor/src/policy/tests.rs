//! The tables are sound, and the book has them.

use core::fmt::Write as _;

use super::features::{self, Bit, Why, mask};
use super::msr::{Read, TABLE, Write};

#[test]
fn no_bit_is_listed_twice() {
    for (leaf, bits) in features::ALL {
        assert_eq!(mask(bits).count_ones() as usize, bits.len(), "{leaf}");
    }
}

fn describe_features() -> String {
    let mut out = String::from("| leaf | bit | feature | shown because |\n|---|---|---|---|\n");
    for (leaf, bits) in features::ALL {
        let mut bits: Vec<&Bit> = bits.iter().collect();
        bits.sort_by_key(|bit| bit.0);
        for Bit(bit, name, why) in bits {
            let why = match why {
                Why::Plain => "instructions without state of their own, or whose state every switch carries",
                Why::Paging => "acts on the guest's own tables and control registers",
                Why::Extended => "state in XCR0 bits 0 to 2, which is switched",
                Why::Kept => "an MSR that the context keeps",
                Why::Provided => "the core provides it",
            };
            writeln!(out, "| {leaf} | {bit} | {name} | {why} |").unwrap();
        }
    }
    out
}

fn describe_msrs() -> String {
    let mut out = String::from("| MSR | name | reading | writing | because |\n|---|---|---|---|---|\n");
    for row in TABLE {
        let read = match row.read {
            Read::Context => "the guest's value".to_string(),
            Read::Value(value) => format!("{value:#x}"),
            Read::Core(_) => "the core's answer".to_string(),
            Read::Fault => "#GP".to_string(),
        };
        let write = match row.write {
            Write::Context => "the guest's value, if it can be loaded",
            Write::Ignore => "ignored",
            Write::Same => "only what it reads as",
            Write::Core(_) => "the core acts",
            Write::Fault => "#GP",
        };
        writeln!(out, "| {:#x} | {} | {read} | {write} | {} |", row.msr, row.name, row.reason).unwrap();
    }
    out
}

/// The book's page has the tables as the code has them. With `WRITE_DOCS` set it is written anew.
#[test]
fn the_book_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/processor.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (features, msrs) = (describe_features(), describe_msrs());
    let (start, _) = page.split_once("| leaf |").unwrap();
    let (_, rest) = page.split_once("\n\n## MSRs").unwrap();
    let (between, _) = rest.split_once("| MSR |").unwrap();
    let wanted = format!("{start}{features}\n## MSRs{between}{msrs}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "run this test with WRITE_DOCS=1");
    }
}
