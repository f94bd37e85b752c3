//! A report as one page of HTML that stands alone: a table, and charts as SVG. It has no scripts and fetches nothing.

use super::{Report, Row, What};
use crate::failure::{Failure, Result};
use clap::ValueEnum;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, SegmentedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordu32;
use plotters::prelude::*;
use std::collections::BTreeSet;
use std::fmt::{Display, Write};

const WIDTH: u32 = 900;
/// Height of a bar with its gap, and of what is around the bars.
const BAR: u32 = 26;
const AROUND: u32 = 90;
/// Room for the names left of the bars.
const NAMES: u32 = 230;
const FONT: (&str, u32) = ("sans-serif", 14);

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}\
.n{text-align:right}.over{color:#b00020;font-weight:bold}.wide{overflow-x:auto}svg{max-width:100%;height:auto}";

/// The page.
pub(super) fn of(what: What, report: &Report) -> Result<String> {
    let name = what.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
    let mut page = String::new();
    write_page(&mut page, &name, report).map_err(|error| Failure::platform(format!("the page: {error}")))?;
    Ok(page)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn write_page(page: &mut String, name: &str, report: &Report) -> Drawn {
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>trunnion bench {name}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>trunnion bench {name}</h1>"
    )?;
    facts(page, report)?;
    write_table(page, report)?;
    let kinds: BTreeSet<(&str, &str)> = report.rows.iter().map(|row| (row.unit, row.per)).collect();
    for (unit, per) in kinds {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| (row.unit, row.per) == (unit, per)).collect();
        write!(page, "<h2>{} per {}</h2><div class=\"wide\">", Text(unit), Text(per))?;
        page.push_str(&bars(&rows, &format!("{unit} per {per}, logarithmic"))?);
        page.push_str(
            "</div><p>A bar ends at the median; the line over it goes from the least to the most, the mark is the limit.</p>",
        );
    }
    let with_exits: Vec<&Row> = report.rows.iter().filter(|row| !row.exits.is_empty()).collect();
    if !with_exits.is_empty() {
        page.push_str("<h2>Exits by reason</h2><div class=\"wide\">");
        page.push_str(&stacks(&with_exits)?);
        page.push_str("</div><p>Of all domains, over the whole measurement of a row.</p>");
    }
    write_beside(page, report)?;
    if !report.failed.is_empty() {
        page.push_str("<h2>Not measured</h2><ul>");
        for line in &report.failed {
            write!(page, "<li>{}</li>", Text(line))?;
        }
        page.push_str("</ul>");
    }
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

/// On what it was measured.
fn facts(page: &mut String, report: &Report) -> std::fmt::Result {
    page.push_str("<table>");
    let machine = report.machine.as_object().into_iter().flatten();
    let machine = machine.map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        (name.replace('_', " "), value)
    });
    let version = ("trunnion".to_string(), env!("CARGO_PKG_VERSION").to_string());
    for (name, value) in machine.chain([version]) {
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
    let notes: Vec<_> = report.rows.iter().filter_map(|row| Some((row, row.note.as_ref()?))).collect();
    if !notes.is_empty() {
        page.push_str("<ul>");
        for (row, note) in notes {
            write!(page, "<li>{}: {}</li>", Text(&title(row)), Text(note))?;
        }
        page.push_str("</ul>");
    }
    Ok(())
}

/// A row's name beside its bar.
fn title(row: &Row) -> String {
    format!("{} ({})", row.name, row.path)
}

/// A figure on an axis that has no zero.
#[expect(clippy::cast_precision_loss, reason = "pixels are coarser")]
fn place(value: u64) -> f64 {
    value.max(1) as f64
}

/// A chart's numbers: `12.5k` rather than many zeroes.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{}G", value / 1e9),
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

/// A bar for each row, first row on top.
fn bars(rows: &[&Row], axis: &str) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let most = rows.iter().map(|row| row.max.max(row.limit.unwrap_or(0))).max().unwrap_or(1);
    let least = rows.iter().map(|row| row.min).min().unwrap_or(1);
    let (low, high) = (place(least) / 2.0, place(most) * 1.3);
    draw(rows, axis, (low..high).log_scale(), |area, at, row| {
        let (bottom, top) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
        let middle = |value: u64| (place(value), SegmentValue::CenterOf(at));
        let color = if row.limit.is_some_and(|limit| row.median > limit) {
            RGBColor(0xb0, 0x00, 0x20)
        } else {
            RGBColor(0x5b, 0x7d, 0xb1)
        };
        let mut bar = Rectangle::new([(low, bottom), (place(row.median), top)], color.filled());
        bar.set_margin(4, 4, 0, 0);
        area.draw_series([bar])?;
        let spread = vec![middle(row.min), middle(row.max)];
        area.draw_series([PathElement::new(spread, BLACK.stroke_width(2))])?;
        if let Some(limit) = row.limit {
            area.draw_series([TriangleMarker::new(middle(limit), 6, RGBColor(0x1a, 0x7f, 0x37).filled())])?;
        }
        Ok(())
    })
}

/// A bar for each row, of parts for the exits' reasons.
fn stacks(rows: &[&Row]) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let reasons: BTreeSet<&String> = rows.iter().flat_map(|row| row.exits.keys()).collect();
    let all = rows.iter().map(|row| row.exits.values().sum::<u64>()).max().unwrap_or(1);
    let mut chart = draw(rows, "exits", 0.0..place(all) * 1.05, |area, at, row| {
        let mut from = 0;
        for (number, reason) in reasons.iter().enumerate() {
            let to = from + row.exits.get(*reason).copied().unwrap_or(0);
            let ends = [(place(from), SegmentValue::Exact(at)), (place(to), SegmentValue::Exact(at + 1))];
            let mut bar = Rectangle::new(ends, color(number).filled());
            bar.set_margin(4, 4, 0, 0);
            area.draw_series([bar])?;
            from = to;
        }
        Ok(())
    })?;
    chart.push_str("<p>");
    for (number, reason) in reasons.iter().enumerate() {
        let RGBColor(red, green, blue) = color(number);
        write!(
            chart,
            "<span style=\"display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;background:rgb({red},{green},{blue})\"></span>{}",
            Text(&reason.replace('_', " "))
        )?;
    }
    chart.push_str("</p>");
    Ok(chart)
}

/// A color for the part of a stack with a number.
fn color(number: usize) -> RGBColor {
    let (red, green, blue) = Palette99::COLORS[number % Palette99::COLORS.len()];
    RGBColor(red, green, blue)
}

type Area<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, SegmentedCoord<RangedCoordu32>>>;

/// A chart with the rows' names on the left; `bar` draws a row at its place.
fn draw<X>(
    rows: &[&Row],
    axis: &str,
    values: X,
    bar: impl Fn(&mut Area<'_, '_, X::CoordDescType>, u32, &Row) -> Drawn,
) -> std::result::Result<String, Box<dyn std::error::Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let count = u32::try_from(rows.len())?;
    let mut chart = String::new();
    {
        let root = SVGBackend::with_string(&mut chart, (WIDTH, AROUND + BAR * count)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut area = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(values, (0..count.saturating_sub(1)).into_segmented())?;
        // The first row is on top, and places count from below.
        let name = |at: &SegmentValue<u32>| match at {
            SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => count
                .checked_sub(at + 1)
                .and_then(|row| rows.get(row as usize))
                .map_or_else(String::new, |row| title(row)),
            SegmentValue::Last => String::new(),
        };
        area.configure_mesh()
            .disable_y_mesh()
            .y_labels(rows.len() + 1)
            .y_label_formatter(&name)
            .x_label_formatter(&|value| short(*value))
            .x_desc(axis)
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        for (row, at) in rows.iter().zip((0..count).rev()) {
            bar(&mut area, at, row)?;
        }
        root.present()?;
    }
    Ok(chart)
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
    use super::super::Beside;
    use super::*;
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
            "instructions per operation, logarithmic",
            "class=\"n over\">4000",
            "yield: no reason",
            "<td>Merom</td>",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert_eq!(page.matches("<svg").count(), 2, "bars, and exits by reason");
        assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
    }

    #[test]
    fn a_page_of_nothing_is_a_page() {
        let report =
            Report { machine: json!({}), unit: "ns", rows: Vec::new(), failed: Vec::new(), beside: None };
        assert!(of(What::Net, &report).unwrap().ends_with("</html>\n"));
    }
}
