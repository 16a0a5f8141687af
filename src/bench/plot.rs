//! The roofline of a result file as SVG.
//!
//! ```text
//! left:   operations per second over operations per byte, both logarithmic; ceilings as lines with their names, cases as numbered points
//! right:  every case by its number, with a bar as long as its percentage of the ceiling that binds it
//! ```
//!
//! Cases without arithmetic (quantize, dequantize) have bars only.

use super::file::{Ceiling, File, Limit, Measured, Regime};
use crate::report::plot::{
    Area, COLOURS, GRID, HEADER, INK, MUTED, axes, chart, decades, page, short, words, write,
};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

const PLOT_WIDTH: i32 = 900;
const LIST_WIDTH: i32 = 640;
const LEAST_HEIGHT: i32 = 640;
const LINE: i32 = 17;
/// Where bars begin and end in the list.
const BAR: Range<i32> = 430..560;
/// A ceiling that was measured, and its rate.
type Line<'a> = (&'a Ceiling, f64);

/// The picture.
///
/// # Errors
/// What the library says, in words.
pub fn svg(file: &File) -> Result<String, String> {
    let rows = file.cases.len() as i32 + 2;
    let height = LEAST_HEIGHT.max(HEADER + rows * LINE + 24);
    let device = &file.device;
    let commit = file.commit.as_deref().unwrap_or("commit unknown");
    let title = format!("{} ({}; {})", device.name, device.backend, device.tier);
    let below = format!("lowbit {} {commit}; {}", file.lowbit, device.driver);
    page((PLOT_WIDTH + LIST_WIDTH, height), &title, below.trim_end_matches("; "), |body| {
        let (left, right) = body.split_horizontally(PLOT_WIDTH);
        let (left, _) = left.split_vertically(LEAST_HEIGHT - HEADER);
        roofline(&left, file)?;
        list(&right, file)
    })
}

/// The colour of a scheme: those of a file in turn.
fn colour(file: &File, case: &Measured) -> RGBColor {
    let mut schemes: Vec<&str> = Vec::new();
    for case in &file.cases {
        if !schemes.contains(&case.scheme.as_str()) {
            schemes.push(&case.scheme);
        }
    }
    let at = schemes.iter().position(|scheme| *scheme == case.scheme).unwrap_or(0);
    COLOURS[at % COLOURS.len()]
}

/// Ceilings of arithmetic and of reading, the latter of memory and of the fastest cache.
fn lines(file: &File) -> (Vec<Line<'_>>, Vec<Line<'_>>) {
    let measured = || file.ceilings.iter().filter_map(|c| Some((c, c.rate?)));
    let mut flat: Vec<Line> = measured().filter(|(c, _)| !c.limit.is_bandwidth()).collect();
    flat.sort_by(|a, b| b.1.total_cmp(&a.1));
    let reads = || measured().filter(|(c, _)| c.limit == Limit::Read);
    let of =
        |regime| reads().filter(move |(c, _)| c.regime == Some(regime)).max_by(|a, b| a.1.total_cmp(&b.1));
    (flat, [of(Regime::Dram), of(Regime::Cache)].into_iter().flatten().collect())
}

fn roofline(area: &Area, file: &File) -> Result<(), String> {
    let points: Vec<(usize, &Measured)> =
        file.cases.iter().enumerate().filter(|(_, case)| case.flops > 0).collect();
    let (flat, sloped) = lines(file);
    let intensities = decades(points.iter().map(|(_, case)| case.intensity()));
    // A decade more on the left, where bandwidths are seen to rise.
    let x = intensities.start / 10.0..intensities.end;
    let top = flat.iter().map(|(_, rate)| *rate);
    let slopes = sloped.iter().map(|(_, rate)| rate * x.start);
    let y = decades(points.iter().map(|(_, case)| case.tflop_per_s * 1e12).chain(top).chain(slopes));
    let mut chart = chart(area)
        .build_cartesian_2d((x.start..x.end).log_scale(), (y.start..y.end).log_scale())
        .map_err(words)?;
    let mut mesh = chart.configure_mesh();
    axes(&mut mesh, "operations per byte", "operations per second");
    mesh.x_label_formatter(&|v| short(*v)).y_label_formatter(&|v| engineering(*v)).draw().map_err(words)?;

    // The highest roof that the slopes reach.
    let roof = flat.iter().map(|(_, rate)| *rate).fold(y.start, f64::max).min(y.end);
    let plane = chart.plotting_area().strip_coord_spec();
    let place = chart.as_coord_spec();
    let spec = |x: f64, y: f64| place.translate(&(x, y));
    let base = plane.get_base_pixel();
    let pixel = |x: f64, y: f64| {
        let (px, py) = spec(x, y);
        (px - base.0, py - base.1)
    };
    let marks: Vec<(i32, i32)> =
        points.iter().map(|(_, case)| pixel(case.intensity(), case.tflop_per_s * 1e12)).collect();
    let mut taken: Vec<i32> = Vec::new();
    for (ceiling, rate) in &flat {
        let (from, to) = (pixel(x.start, *rate), pixel(x.end, *rate));
        plane.draw(&PathElement::new(vec![from, to], INK.stroke_width(2))).map_err(words)?;
        // On the left, where no case is. Labels of ceilings that lie close together go below their lines.
        let label = format!("{}: {}", ceiling.name, engineering(*rate) + "OP/s");
        let above = !taken.iter().any(|y| (y - from.1).abs() < 18);
        taken.push(from.1);
        let (dy, v) = if above { (-3, VPos::Bottom) } else { (4, VPos::Top) };
        write(&plane, &label, (from.0 + 6, from.1 + dy), 14.0, INK, Pos::new(HPos::Left, v))?;
    }
    for (ceiling, rate) in &sloped {
        // From the left edge, or from where the line comes in below, to the roof.
        let low = x.start.max(y.start / rate);
        let high = x.end.min(roof / rate);
        if low >= high {
            continue;
        }
        let (from, to) = (pixel(low, low * rate), pixel(high, high * rate));
        plane.draw(&PathElement::new(vec![from, to], MUTED.stroke_width(2))).map_err(words)?;
        let label = format!("{}: {}B/s", ceiling.name, engineering(*rate));
        // Beside the line, memory's on the right and a cache's on the left, and not across a ceiling of arithmetic or a case.
        let along = |part: f64| {
            let between = |a: i32, b: i32| a + (f64::from(b - a) * part) as i32;
            (between(from.0, to.0), between(from.1, to.1))
        };
        let is_cache = ceiling.regime == Some(Regime::Cache);
        let side = if is_cache { -170..0 } else { 0..170 };
        let is_free = |at: &(i32, i32)| {
            let covers = |mark: &(i32, i32)| side.contains(&(mark.0 - at.0)) && (mark.1 - at.1).abs() <= 14;
            taken.iter().all(|y| (y - at.1).abs() > 14) && !marks.iter().any(covers)
        };
        let at = [0.5, 0.4, 0.6, 0.3, 0.7].map(along).into_iter().find(is_free).unwrap_or(along(0.5));
        let (dx, h) = if is_cache && at.0 > 170 { (-10, HPos::Right) } else { (10, HPos::Left) };
        write(&plane, &label, (at.0 + dx, at.1), 14.0, MUTED, Pos::new(h, VPos::Center))?;
    }
    let mut numbers: Vec<(i32, i32)> = Vec::new();
    for ((i, case), &at) in points.into_iter().zip(&marks) {
        let colour = colour(file, case);
        // Filled: in memory. A ring: in a cache.
        let style = if case.regime == Regime::Dram { colour.filled() } else { colour.stroke_width(2) };
        plane.draw(&Circle::new(at, 5, style)).map_err(words)?;
        if let Some(to) = free(&mut numbers, at) {
            write(&plane, &(i + 1).to_string(), to, 12.0, colour, Pos::new(HPos::Center, VPos::Center))?;
        }
    }
    Ok(())
}

/// A place for a number beside a point where no other number is. None if all around are taken: the list still has the point.
fn free(numbers: &mut Vec<(i32, i32)>, (x, y): (i32, i32)) -> Option<(i32, i32)> {
    let around = [
        (15, 0),
        (-15, 0),
        (0, -14),
        (0, 14),
        (13, -11),
        (13, 11),
        (-13, -11),
        (-13, 11),
        (31, 0),
        (-31, 0),
        (47, 0),
    ];
    let is_free =
        |at: &(i32, i32)| numbers.iter().all(|n| (n.0 - at.0).abs() > 15 || (n.1 - at.1).abs() > 12);
    let place = around.iter().map(|(dx, dy)| (x + dx, y + dy)).find(is_free)?;
    numbers.push(place);
    Some(place)
}

fn list(area: &Area, file: &File) -> Result<(), String> {
    let left = Pos::new(HPos::Left, VPos::Center);
    write(area, "cases: filled in memory, rings in a cache", (0, 10), 13.0, MUTED, left)?;
    write(area, "reached of the ceiling that binds", (BAR.start, 10), 13.0, MUTED, left)?;
    for (i, case) in file.cases.iter().enumerate() {
        let y = 10 + (i as i32 + 1) * LINE;
        let colour = colour(file, case);
        write(area, &(i + 1).to_string(), (22, y), 13.0, colour, Pos::new(HPos::Right, VPos::Center))?;
        let style = if case.regime == Regime::Dram { colour.filled() } else { colour.stroke_width(2) };
        area.draw(&Circle::new((33, y), 4, style)).map_err(words)?;
        write(area, &case.key(), (44, y), 13.0, INK, left)?;
        let share = match (case.percent, &case.ceiling) {
            (Some(percent), Some(ceiling)) => {
                let end = BAR.start + (f64::from(BAR.len() as i32) * (percent / 100.0).min(1.0)) as i32;
                area.draw(&Rectangle::new([(BAR.start, y - 6), (BAR.end, y + 6)], GRID.filled()))
                    .map_err(words)?;
                area.draw(&Rectangle::new([(BAR.start, y - 6), (end, y + 6)], colour.mix(0.6).filled()))
                    .map_err(words)?;
                write(area, ceiling, (BAR.start + 4, y), 11.0, INK, left)?;
                format!("{percent:.0} %")
            }
            _ => "no ceiling".into(),
        };
        write(area, &share, (BAR.end + 8, y), 13.0, INK, left)?;
    }
    Ok(())
}

/// `1.5 T`: three digits and a prefix.
fn engineering(v: f64) -> String {
    let (unit, name) = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(unit, _)| v >= unit * 0.9995)
        .unwrap_or((1.0, ""));
    let digits = v / unit;
    let places = if digits >= 99.95 {
        0
    } else if digits >= 9.995 {
        1
    } else {
        2
    };
    format!("{} {name}", short(format!("{digits:.places$}").parse().unwrap_or(digits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::file::tests::sample_file;

    #[test]
    fn the_picture_names_device_ceilings_and_cases() {
        let file = sample_file();
        let text = svg(&file).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        for name in [
            "f32 FMA: 50 TOP/s",
            "coop. matrix 16x16x16: 500 TOP/s",
            "read, DRAM: 1 TB/s",
            "read, 1 MiB: 8 TB/s",
        ] {
            assert!(text.contains(name), "{name}");
        }
        for case in &file.cases {
            assert!(text.contains(&case.key()), "{}", case.key());
        }
        // Names go in escaped, and a ceiling that is absent has no line.
        assert!(text.contains("Some &lt;GPU&gt; &amp; more") && !text.contains("f16 FMA"));
        // Three points, and four marks in the list.
        assert_eq!(text.matches("<circle").count(), 7);
    }

    #[test]
    fn a_file_without_anything_has_a_picture() {
        let mut file = sample_file();
        file.cases.clear();
        file.ceilings.clear();
        assert!(svg(&file).unwrap().contains("operations per byte"));
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0123, 1.0, 999.0, 1000.0, 1234.0, 4.5e12, 4.56e13, 4.567e14, 999.96e9].map(engineering);
        assert_eq!(all, ["0.01 ", "1 ", "999 ", "1 k", "1.23 k", "4.5 T", "45.6 T", "457 T", "1 T"]);
    }
}
