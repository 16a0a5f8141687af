//! Accuracy against bits as SVG: what low bits cost, by how they were come to.
//!
//! ```text
//! series (name, (bits, percent)) -> bits across; percent upwards -> lines with a dot for each point, their names below each other
//! ```

use super::plot::{COLOURS, axes, chart, page, short, words, write};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: i32 = 900;
const HEIGHT: i32 = 560;

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// Bits, percent.
    pub points: Vec<(f64, f64)>,
}

/// The picture.
///
/// # Errors
/// What the library says, in words.
pub fn svg(title: &str, below: &str, series: &[Series]) -> Result<String, String> {
    page((WIDTH, HEIGHT), title, below, |body| {
        let all = || series.iter().flat_map(|line| &line.points);
        let most = all().map(|p| p.0).fold(1.0, f64::max);
        let least = all().map(|p| p.1).fold(100.0, f64::min);
        // Whole steps of five below the lowest point.
        let floor = ((least - 1.0) / 5.0).floor().max(0.0) * 5.0;
        let mut chart = chart(body).build_cartesian_2d(0.5..most + 0.5, floor..100.0).map_err(words)?;
        let mut mesh = chart.configure_mesh();
        axes(&mut mesh, "bits of a weight", "right answers, %");
        mesh.x_labels(most as usize + 1)
            .x_label_formatter(&|v| short(*v))
            .y_label_formatter(&|v| short(*v))
            .draw()
            .map_err(words)?;
        for (line, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let path = PathElement::new(line.points.clone(), colour.stroke_width(2));
            chart.draw_series(std::iter::once(path)).map_err(words)?;
            let dots = line.points.iter().map(|&at| Circle::new(at, 5, colour.filled()));
            chart.draw_series(dots).map_err(words)?;
        }
        // Names at the lower right, where lines are not.
        let plane = chart.plotting_area().strip_coord_spec();
        let (wide, high) = plane.dim_in_pixel();
        for (i, (line, colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let y = high as i32 - 18 * (series.len() - i) as i32;
            let right = Pos::new(HPos::Right, VPos::Center);
            write(&plane, &line.name, (wide as i32 - 12, y), 14.0, *colour, right)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_dot_and_every_line_a_name() {
        let line = |name: &str, points: &[(f64, f64)]| Series { name: name.into(), points: points.to_vec() };
        let lines = [line("f32 <a&b>", &[(8.0, 98.0), (2.0, 98.0)]), line("trained", &[(2.0, 41.0)])];
        let text = svg("Title", "below", &lines).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert_eq!(text.matches("<circle").count(), 3);
        for name in
            ["Title", "below", "f32 &lt;a&amp;b&gt;", "trained", "bits of a weight", "right answers, %"]
        {
            assert!(text.contains(name), "{name}");
        }
        assert!(svg("Title", "below", &[]).is_ok());
    }
}
