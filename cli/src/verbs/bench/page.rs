//! A report as one page of HTML that stands alone: tables, and charts as SVG ([`charts`]). It has no scripts and fetches nothing.

mod charts;

use super::{Report, Row, What};
use crate::failure::{Failure, Result};
use charts::{Drawn, Part};
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::fmt::{Display, Write};

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}\
.n{text-align:right}.over{color:#b00020;font-weight:bold}.wide{overflow-x:auto}svg{max-width:100%;height:auto}\
h3{font-size:1em;margin:1em 0 0}.part{display:inline-block;margin-right:1em}\
.key{display:inline-block;width:.9em;height:.9em;margin-right:.3em;vertical-align:-.1em}";

/// The page.
pub(super) fn of(what: What, report: &Report) -> Result<String> {
    let name = what.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
    let mut page = String::new();
    write_page(&mut page, &name, report).map_err(|error| Failure::platform(format!("the page: {error}")))?;
    Ok(page)
}

fn write_page(page: &mut String, name: &str, report: &Report) -> Drawn {
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>trunnion bench {name}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>trunnion bench {name}</h1>"
    )?;
    facts(page, report)?;
    if !report.failed.is_empty() {
        page.push_str("<h2>Not measured</h2><ul>");
        for line in &report.failed {
            write!(page, "<li>{}</li>", Text(line))?;
        }
        page.push_str("</ul>");
    }
    write_table(page, report)?;
    write_charts(page, report)?;
    write_beside(page, report)?;
    page.push_str("</body></html>\n");
    Ok(())
}

/// What others have measured.
fn write_beside(page: &mut String, report: &Report) -> std::fmt::Result {
    let Some(beside) = &report.beside else { return Ok(()) };
    page.push_str("<h2>Processors</h2><div class=\"wide\"><table>");
    for (tag, row) in std::iter::once(("th", &beside.head)).chain(beside.rows.iter().map(|row| ("td", row))) {
        page.push_str("<tr>");
        for (number, cell) in row.iter().enumerate() {
            let class = if number == 0 { "" } else { " class=\"n\"" };
            write!(page, "<{tag}{class}>{}</{tag}>", Text(cell))?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div><p>In cycles, by others' measurements. A column stays empty where nobody has measured cycles.</p>");
    Ok(())
}

/// Rows that are drawn together: their heading, and each row's name beside its bar.
struct Group<'a> {
    heading: String,
    rows: Vec<&'a Row>,
    names: Vec<String>,
}

impl<'a> Group<'a> {
    /// Those of the rows that `has` chooses, with their names.
    fn with(&self, has: impl Fn(&Row) -> bool) -> (Vec<&'a Row>, Vec<String>) {
        let all = self.rows.iter().copied().zip(self.names.iter().cloned());
        all.filter(|(row, _)| has(row)).unzip()
    }
}

/// The paths of each operation, or, when no operation has several paths, what is counted alike.
fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let several = names.len() < rows.len();
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in rows {
        let (heading, name) = if several {
            (row.name.clone(), row.path.to_string())
        } else {
            (format!("{} per {}", row.unit, row.per), title(row))
        };
        if let Some(group) = groups.iter_mut().find(|group| group.heading == heading) {
            group.rows.push(row);
            group.names.push(name);
        } else {
            groups.push(Group { heading, rows: vec![row], names: vec![name] });
        }
    }
    groups
}

/// The charts of each group.
fn write_charts(page: &mut String, report: &Report) -> Drawn {
    let groups = groups(&report.rows);
    let has = |chosen: fn(&Row) -> bool| report.rows.iter().any(chosen);
    page.push_str(
        "<h2>Charts</h2><ul><li>Cost: a bar ends at the median, whose number stands behind it; the line goes from the least to the most, the \
         triangle is the limit, and a bar above its limit is red.</li>",
    );
    if has(|row| !row.exits.is_empty()) {
        page.push_str(
            "<li>Exits by reason: of all domains, on average over the whole measurement of a row.</li>",
        );
    }
    if has(|row| row.share.is_some()) {
        page.push_str(
            "<li>Where the time goes: on average, too. The hypervisor's part is its work for the guest's exits. Entering a domain and \
             switching to it count as that domain's, and dom0's part has the hypervisor's work for it.</li>",
        );
    }
    if has(|row| !row.times.is_empty()) {
        page.push_str(
            "<li>Times of single operations: how many of a hundred took no longer. They are taken one by one, in a part of their own.</li>",
        );
    }
    page.push_str("</ul>");
    let reasons: BTreeSet<&String> = report.rows.iter().flat_map(|row| row.exits.keys()).collect();
    let reasons: Vec<String> = reasons.into_iter().map(|reason| reason.replace('_', " ")).collect();
    let mut paths: Vec<String> = Vec::new();
    for name in groups.iter().flat_map(|group| &group.names) {
        if !paths.contains(name) {
            paths.push(name.clone());
        }
    }
    for group in &groups {
        write!(page, "<h2>{}</h2>", Text(&group.heading))?;
        write_group(page, group, &reasons, &paths)?;
    }
    Ok(())
}

/// The parts of a row's time.
const PARTS: [&str; 3] = ["guest", "hypervisor", "dom0"];

fn write_group(page: &mut String, group: &Group<'_>, reasons: &[String], paths: &[String]) -> Drawn {
    let Some(first) = group.rows.first() else { return Ok(()) };
    let (unit, per) = (first.unit, first.per);
    write_notes(page, group)?;
    let mut chart =
        |heading: &str, chart: &str| write!(page, "<h3>{heading}</h3><div class=\"wide\">{chart}</div>");
    chart("Cost", &charts::bars(&group.rows, &group.names, &format!("{unit} per {per}"))?)?;
    let (rows, names) = group.with(|row| !row.exits.is_empty());
    if !rows.is_empty() {
        let parts: Vec<Vec<Part>> = rows.iter().map(|row| exits(row)).collect();
        let axis = format!("exits per {per}");
        chart("Exits by reason", &charts::stacks(&parts, &names, &axis, reasons)?)?;
    }
    let (rows, names) = group.with(|row| row.share.is_some());
    if !rows.is_empty() {
        let parts: Vec<Vec<Part>> = rows.iter().map(|row| shares(row)).collect();
        let axis = format!("{unit} per {per}");
        chart("Where the time goes", &charts::stacks(&parts, &names, &axis, &PARTS.map(String::from))?)?;
    }
    let (rows, names) = group.with(|row| !row.times.is_empty());
    if !rows.is_empty() {
        let axis = format!("{unit} that one {per} took");
        chart("Times of single operations", &charts::curves(&rows, &names, &axis, paths)?)?;
    }
    Ok(())
}

/// What is to be said of the rows, and what an operation of each uses.
fn write_notes(page: &mut String, group: &Group<'_>) -> std::fmt::Result {
    let (rows, names) = group.with(|row| row.note.is_some());
    if !rows.is_empty() {
        page.push_str("<ul>");
        for (row, name) in rows.iter().zip(names) {
            write!(page, "<li>{}: {}</li>", Text(&name), Text(row.note.as_deref().unwrap_or_default()))?;
        }
        page.push_str("</ul>");
    }
    let (rows, names) = group.with(|row| row.used.is_some());
    let Some(first) = rows.first() else { return Ok(()) };
    write!(page, "<div class=\"wide\"><table><tr><th>per {}</th>", Text(first.per))?;
    for name in ["exits", "hypercalls", "events", "grant copies", "grants mapped"] {
        write!(page, "<th class=\"n\">{name}</th>")?;
    }
    page.push_str("</tr>");
    for (row, name) in rows.iter().zip(names) {
        write!(page, "<tr><td>{}</td>", Text(&name))?;
        let used = row.used.unwrap_or_default();
        let exits = row.exits.values().sum();
        for count in [exits, used.hypercalls, used.events, used.grants_copied, used.grants_mapped] {
            write!(page, "<td class=\"n\">{:.2}</td>", row.each(count))?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
    Ok(())
}

/// A row's exits for one operation.
fn exits(row: &Row) -> Vec<Part> {
    row.exits.iter().map(|(reason, count)| (reason.replace('_', " "), row.each(*count))).collect()
}

/// Where a row's time goes.
#[expect(clippy::cast_precision_loss, reason = "pixels are coarser")]
fn shares(row: &Row) -> Vec<Part> {
    let share = row.share.unwrap_or_default();
    let times = PARTS.into_iter().zip([share.guest, share.core, share.dom0]);
    times.map(|(name, time)| (name.to_string(), time as f64)).collect()
}

/// What is said of the machine, in this order; the rest comes behind it.
const FACTS: [(&str, &str); 8] = [
    ("command", "command"),
    ("name", "machine"),
    ("emulator", "emulator"),
    ("cpu", "processor model"),
    ("processors", "processors"),
    ("memory_bytes", "memory, bytes"),
    ("icount", "instructions counted (icount)"),
    ("trunnion", "version of trunnion"),
];

/// On what it was measured.
fn facts(page: &mut String, report: &Report) -> std::fmt::Result {
    page.push_str("<table>");
    let all = report.machine.as_object().cloned().unwrap_or_default();
    let known = FACTS.iter().filter_map(|(key, name)| Some(((*name).to_string(), all.get(*key)?)));
    let others = all.iter().filter(|(key, _)| !FACTS.iter().any(|(known, _)| known == key));
    let others = others.map(|(key, value)| (key.replace('_', " "), value));
    for (name, value) in known.chain(others) {
        let value = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Bool(true) => "yes".into(),
            serde_json::Value::Bool(false) => "no".into(),
            other => other.to_string(),
        };
        write!(page, "<tr><th>{}</th><td>{}</td></tr>", Text(&name), Text(&value))?;
    }
    page.push_str("</table>");
    if report.unit == "instructions" {
        page.push_str("<p>Counted are the instructions that the emulator executes. They are not cycles of a processor.</p>");
    }
    Ok(())
}

fn write_table(page: &mut String, report: &Report) -> std::fmt::Result {
    page.push_str(
        "<h2>Figures</h2><div class=\"wide\"><table><tr><th>operation</th><th>path</th><th class=\"n\">times</th>\
         <th class=\"n\">min</th><th class=\"n\">median</th><th class=\"n\">max</th><th class=\"n\">at most</th><th>unit</th></tr>",
    );
    for row in &report.rows {
        let over = if row.limit.is_some_and(|limit| row.median > limit) { " over" } else { "" };
        let limit = row.limit.map_or_else(String::new, |limit| limit.to_string());
        write!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n{over}\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{limit}</td><td>{} per {}</td></tr>",
            Text(&row.name),
            Text(row.path),
            row.n,
            row.min,
            row.median,
            row.max,
            Text(row.unit),
            Text(row.per)
        )?;
    }
    page.push_str("</table></div>");
    Ok(())
}

/// A row's name beside its bar.
fn title(row: &Row) -> String {
    format!("{} ({})", row.name, row.path)
}

/// Text of a page: what would be markup is not.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            other => f.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::bench::{Beside, Share, Used};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn row(name: &str, median: u64) -> Row {
        Row {
            name: name.into(),
            path: "pv",
            n: 15,
            min: median - median / 10,
            median,
            max: median * 2,
            exits: BTreeMap::from([("hypercall".into(), median), ("port".into(), 7)]),
            used: Some(Used { hypercalls: 30, ..Used::default() }),
            share: Some(Share { guest: median / 2, core: median / 4, dom0: median / 4 }),
            times: vec![median, median + 1, median * 2],
            per: "operation",
            unit: "instructions",
            limit: Some(300),
            note: Some("a < b".into()),
        }
    }

    #[test]
    fn a_page_stands_alone_and_says_everything() {
        let report = Report {
            machine: json!({"name": "qemu-svm", "icount": true}),
            unit: "instructions",
            rows: vec![row("null-hypercall", 250), row("grant-map", 4000)],
            failed: vec!["yield: no reason".into()],
            beside: Some(Beside { head: vec!["cycles of".into()], rows: vec![vec!["Merom".into()]] }),
        };
        let page = of(What::Micro, &report).unwrap();
        for part in [
            "qemu-svm",
            "null-hypercall (pv)",
            "a &lt; b",
            "not cycles",
            "instructions per operation",
            "class=\"n over\">4000",
            "yield: no reason",
            "<td class=\"n\">2.00</td>",
            "<td>Merom</td>",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert_eq!(page.matches("<svg").count(), 4, "cost, exits by reason, shares, and times");
        assert!(page.contains("exits per operation"));
        assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
    }

    #[test]
    fn a_page_of_nothing_is_a_page() {
        let report =
            Report { machine: json!({}), unit: "ns", rows: Vec::new(), failed: Vec::new(), beside: None };
        assert!(of(What::Net, &report).unwrap().ends_with("</html>\n"));
    }
}
