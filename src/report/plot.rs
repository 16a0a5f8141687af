//! What pictures share: the page, axes, letters, colours, numbers.
//!
//! ```text
//! results -> bench::plot (a roofline) | size_plot (error against size) | accuracy_plot (accuracy against bits) -> SVG, as text
//! ```

use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;
use std::ops::Range;

const FONT: &str = "sans-serif";
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub const MUTED: RGBColor = RGBColor(0x77, 0x77, 0x77);
pub const GRID: RGBColor = RGBColor(0xe8, 0xe8, 0xe8);
/// Colours that are told apart with the common kinds of colour blindness too (Okabe and Ito).
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x55, 0x55, 0x55),
];

/// Where pictures are drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An error of the library in words.
pub fn words(error: impl Display) -> String {
    error.to_string()
}

/// Writes a text at a pixel.
pub fn write(
    area: &Area,
    text: &str,
    at: (i32, i32),
    size: f64,
    colour: RGBColor,
    anchor: Pos,
) -> Result<(), String> {
    let style = TextStyle::from((FONT, size).into_font()).color(&colour).pos(anchor);
    area.draw(&Text::new(text.to_string(), at, style)).map_err(words)
}

/// Height of the title and of what stands below it.
pub const HEADER: i32 = 64;

/// A picture of this width and height: its title, a line below it, and what `body` draws on the rest.
///
/// # Errors
/// What the library says, in words; those of `body`.
pub fn page(
    (width, height): (i32, i32),
    title: &str,
    below: &str,
    body: impl FnOnce(&Area) -> Result<(), String>,
) -> Result<String, String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (width as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE).map_err(words)?;
        let corner = Pos::new(HPos::Left, VPos::Top);
        write(&root, title, (24, 14), 19.0, INK, corner)?;
        write(&root, below, (24, 40), 13.0, MUTED, corner)?;
        body(&root.split_vertically(HEADER).1)?;
        root.present().map_err(words)?;
    }
    Ok(text)
}

/// A chart to be, with room for its axes.
pub fn chart<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart.margin_left(12).margin_right(30).margin_top(10).x_label_area_size(56).y_label_area_size(86);
    chart
}

/// Lines and letters of axes, and what is measured along them.
pub fn axes<X: Ranged, Y: Ranged>(mesh: &mut MeshStyle<'_, '_, X, Y, SVGBackend<'_>>, x: &str, y: &str) {
    mesh.bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(MUTED)
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .x_desc(x)
        .y_desc(y);
}

/// Powers of ten around `values`, of all of them one at least.
pub fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|v| v.is_finite() && *v > 0.0)
        .fold((f64::INFINITY, 0f64), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 1.0..10.0;
    }
    let power = |v: f64| 10f64.powi(v as i32);
    power((low * 0.9).log10().floor())..power((high * 1.1).log10().ceil())
}

/// `0.1`, `1`, `1000`.
pub fn short(v: f64) -> String {
    let text = format!("{v:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_hold_all_values() {
        assert_eq!(decades([3.0, 700.0].into_iter()), 1.0..1000.0);
        assert_eq!(decades([0.0, f64::NAN].into_iter()), 1.0..10.0);
        assert_eq!(decades([5.0].into_iter()), 1.0..10.0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.01, 10.0, 1000.0].map(short), ["0.01", "10", "1000"]);
    }
}
