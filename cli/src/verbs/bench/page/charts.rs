//! The charts of a page, as SVG: bars, stacks of parts, and distributions of times. Every axis says what it counts.

use super::Text;
use crate::verbs::bench::Row;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, SegmentedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordu32;
use plotters::element::Text as Words;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write;

const WIDTH: u32 = 900;
/// Height of a bar with its gap, and of what is around the bars.
const BAR: u32 = 26;
const AROUND: u32 = 90;
/// Height of a chart of distributions.
const CURVES: u32 = 320;
/// Width of a letter of a name, about.
const LETTER: usize = 8;
const FONT: (&str, u32) = ("sans-serif", 14);
/// Bars that differ by more than so many times are drawn on a logarithmic axis.
const FAR: u64 = 50;
/// The quantiles of [`Row::times`], in percent.
const QUANTILES: [f64; 10] = [0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 100.0];

type Failed = Box<dyn std::error::Error>;
pub(super) type Drawn = Result<(), Failed>;
/// A part of a stack: its name and size.
pub(super) type Part = (String, f64);

/// A bar for each row, first row on top, with the spread, the limit and the median's number.
pub(super) fn bars(rows: &[&Row], names: &[String], axis: &str) -> Result<String, Failed> {
    let most = rows.iter().map(|row| row.max.max(row.limit.unwrap_or(0))).max().unwrap_or(1);
    let least = rows.iter().map(|row| row.min).min().unwrap_or(1);
    if most / least.max(1) > FAR {
        let low = place(least) / 2.0;
        // Room for the number behind the longest.
        let high = place(most) * (place(most) / low).powf(0.13);
        draw(names, &format!("{axis}, logarithmic"), (low..high).log_scale(), |area, at, row| {
            bar(area, at, rows.get(row).copied(), low)
        })
    } else {
        draw(names, axis, 0.0..place(most) * 1.13, |area, at, row| bar(area, at, rows.get(row).copied(), 0.0))
    }
}

/// Draws a row's bar from `low` on.
fn bar<X: Ranged<ValueType = f64>>(
    area: &mut Area<'_, '_, X>,
    at: u32,
    row: Option<&Row>,
    low: f64,
) -> Drawn {
    let Some(row) = row else { return Ok(()) };
    let (bottom, top) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
    let middle = |value: f64| (value, SegmentValue::CenterOf(at));
    let over = row.limit.is_some_and(|limit| row.median > limit);
    let color = if over { RGBColor(0xb0, 0x00, 0x20) } else { RGBColor(0x5b, 0x7d, 0xb1) };
    let mut bar = Rectangle::new([(low, bottom), (place(row.median), top)], color.filled());
    bar.set_margin(4, 4, 0, 0);
    area.draw_series([bar])?;
    let spread = vec![middle(place(row.min)), middle(place(row.max))];
    area.draw_series([PathElement::new(spread, BLACK.stroke_width(2))])?;
    if let Some(limit) = row.limit {
        let mark = TriangleMarker::new(middle(place(limit)), 6, RGBColor(0x1a, 0x7f, 0x37).filled());
        area.draw_series([mark])?;
    }
    let end = place(row.median.max(row.max).max(row.limit.unwrap_or(0)));
    number(area, at, end, place(row.median))
}

/// Writes a number behind the end of a bar.
fn number<X: Ranged<ValueType = f64>>(area: &mut Area<'_, '_, X>, at: u32, end: f64, value: f64) -> Drawn {
    let style = FONT.into_text_style(area.plotting_area()).pos(Pos::new(HPos::Left, VPos::Center));
    let element =
        EmptyElement::at((end, SegmentValue::CenterOf(at))) + Words::new(short(value), (10, 0), style);
    area.draw_series([element])?;
    Ok(())
}

/// A bar for each row, made of parts whose colors are those of `known` names, and a key of the parts that are there.
pub(super) fn stacks(
    all: &[Vec<Part>],
    names: &[String],
    axis: &str,
    known: &[String],
) -> Result<String, Failed> {
    let sum = |parts: &[Part]| parts.iter().map(|(_, part)| part).sum::<f64>();
    let most = all.iter().map(|parts| sum(parts)).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 1.0 };
    let mut chart = draw(names, axis, 0.0..most * 1.13, |area, at, row| {
        let parts = all.get(row).map_or(&[][..], Vec::as_slice);
        let mut from = 0.0;
        for (name, part) in parts {
            let ends = [(from, SegmentValue::Exact(at)), (from + part, SegmentValue::Exact(at + 1))];
            let mut bar = Rectangle::new(ends, color(known, name).filled());
            bar.set_margin(4, 4, 0, 0);
            area.draw_series([bar])?;
            from += part;
        }
        number(area, at, from, from)
    })?;
    let there: Vec<&String> =
        known.iter().filter(|name| all.iter().flatten().any(|(part, _)| part == *name)).collect();
    key(&mut chart, &there, known)?;
    Ok(chart)
}

/// How single operations' times are spread: a curve for each row that has them.
pub(super) fn curves(
    rows: &[&Row],
    names: &[String],
    axis: &str,
    known: &[String],
) -> Result<String, Failed> {
    let times = || rows.iter().flat_map(|row| row.times.iter().copied());
    let (least, most) = (times().min().unwrap_or(1), times().max().unwrap_or(1));
    let mut chart = String::new();
    {
        let root = SVGBackend::with_string(&mut chart, (WIDTH, CURVES)).into_drawing_area();
        root.fill(&WHITE)?;
        let values = place(least) / 1.2..place(most) * 1.2;
        // A logarithmic axis has too few numbers where it is short, and where it is long those of a decade's end stand in each other.
        if values.end / values.start > 10.0 {
            let label = |value: &f64| if is_apart(*value) { short(*value) } else { String::new() };
            let axis = format!("{axis}, logarithmic");
            draw_curves(&root, values.log_scale(), &label, &axis, (rows, names, known))?;
        } else {
            draw_curves(&root, values, &|value| short(*value), axis, (rows, names, known))?;
        }
        root.present()?;
    }
    key(&mut chart, &names.iter().collect::<Vec<_>>(), known)?;
    Ok(chart)
}

fn draw_curves<X>(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    values: X,
    label: &dyn Fn(&f64) -> String,
    axis: &str,
    (rows, names, known): (&[&Row], &[String], &[String]),
) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut area = ChartBuilder::on(root)
        .margin(12)
        .margin_right(40)
        .x_label_area_size(48)
        .y_label_area_size(70)
        .build_cartesian_2d(values, 0.0..100.0)?;
    area.configure_mesh()
        .x_label_formatter(&label)
        .y_label_formatter(&|value| format!("{value} %"))
        .x_desc(axis)
        .y_desc("operations that took no longer, %")
        .light_line_style(TRANSPARENT)
        .label_style(FONT)
        .axis_desc_style(FONT)
        .draw()?;
    for (row, name) in rows.iter().zip(names) {
        let points = row.times.iter().map(|time| place(*time)).zip(QUANTILES).collect::<Vec<_>>();
        area.draw_series([PathElement::new(points, color(known, name).stroke_width(2))])?;
    }
    Ok(())
}

/// What the colors mean.
fn key(chart: &mut String, there: &[&String], known: &[String]) -> std::fmt::Result {
    chart.push_str("<p>");
    for name in there {
        let RGBColor(red, green, blue) = color(known, name);
        write!(
            chart,
            "<span class=\"part\"><span class=\"key\" style=\"background:rgb({red},{green},{blue})\"></span>{}</span> ",
            Text(name)
        )?;
    }
    chart.push_str("</p>");
    Ok(())
}

/// The color of a name among those known.
fn color(known: &[String], name: &str) -> RGBColor {
    let number = known.iter().position(|known| known == name).unwrap_or(0);
    let (red, green, blue) = Palette99::COLORS[number % Palette99::COLORS.len()];
    RGBColor(red, green, blue)
}

/// A figure on an axis that has no zero.
#[expect(clippy::cast_precision_loss, reason = "pixels are coarser")]
fn place(value: u64) -> f64 {
    value.max(1) as f64
}

/// Whether a number on a logarithmic axis is written where room is short: 1, 2 and 5 of each decade.
fn is_apart(value: f64) -> bool {
    let first = value / 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().any(|kept| (first - kept).abs() < 0.01)
}

/// A chart's numbers in three digits: `12.5k` rather than many zeroes.
fn short(value: f64) -> String {
    let (value, letter) = match value {
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let digits = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{letter}")
}

type Area<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, SegmentedCoord<RangedCoordu32>>>;

/// A chart with the rows' names on the left; `bar` draws the row with a number at its place.
fn draw<X>(
    names: &[String],
    axis: &str,
    values: X,
    bar: impl Fn(&mut Area<'_, '_, X::CoordDescType>, u32, usize) -> Drawn,
) -> Result<String, Failed>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let count = u32::try_from(names.len())?;
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut chart = String::new();
    {
        let root = SVGBackend::with_string(&mut chart, (WIDTH, AROUND + BAR * count)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut area = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(u32::try_from(longest * LETTER + 20)?)
            .build_cartesian_2d(values, (0..count.saturating_sub(1)).into_segmented())?;
        // The first row is on top, and places count from below.
        let name = |at: &SegmentValue<u32>| match at {
            SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => {
                count.checked_sub(at + 1).and_then(|row| names.get(row as usize)).cloned().unwrap_or_default()
            }
            SegmentValue::Last => String::new(),
        };
        area.configure_mesh()
            .disable_y_mesh()
            .x_labels(8)
            .y_labels(names.len() + 1)
            .y_label_formatter(&name)
            .x_label_formatter(&|value| short(*value))
            .x_desc(axis)
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        for (row, at) in (0..names.len()).zip((0..count).rev()) {
            bar(&mut area, at, row)?;
        }
        root.present()?;
    }
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.0, 4.25, 12.0, 239.0, 10_670.0, 803_474.0, 1_500_000.0].map(short);
        assert_eq!(texts, ["0", "4.25", "12", "239", "10.7k", "803k", "1.5M"]);
    }
    #[test]
    fn numbers_of_a_wide_axis_stand_apart() {
        let kept = [0.5, 1.0, 30.0, 50.0, 700_000.0, 900_000.0, 1e6, 2e6, 3e6].map(is_apart);
        assert_eq!(kept, [true, true, false, true, false, false, true, true, false]);

        let curve = |least: u64, most| {
            let row =
                Row { times: (0..10).map(|n| least + n * (most - least) / 9).collect(), ..Row::default() };
            curves(&[&row], &["pv".into()], "instructions", &["pv".into()]).expect("a chart")
        };
        let (wide, narrow) = (curve(66_000, 4_200_000), curve(250_000, 450_000));
        for (chart, number, there) in
            [(&wide, "900k", false), (&wide, "500k", true), (&wide, "1M", true), (&narrow, "300k", true)]
        {
            assert_eq!(chart.lines().any(|line| line.trim() == number), there, "{number}: {chart}");
        }
    }
}
