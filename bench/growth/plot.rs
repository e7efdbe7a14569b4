//! Draws the curves as a picture.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use crate::Curve;

const SIZE: (u32, u32) = (960, 720);
const COLORS: [RGBColor; 3] = [
    RGBColor(31, 95, 191),
    RGBColor(191, 80, 31),
    RGBColor(46, 139, 87),
];
/// The height of a plot relative to its highest point.
const HEADROOM: f64 = 1.35;

/// Draws each curve in a plot of its own, with a logarithmic scale for the varied quantity.
pub(crate) fn draw(path: &Path, curves: &[Curve]) -> anyhow::Result<()> {
    draw_all(path, curves).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn draw_all(path: &Path, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
    let picture = SVGBackend::new(path, SIZE).into_drawing_area();
    picture.fill(&WHITE)?;
    for (field, curve) in picture.split_evenly((2, 2)).iter().zip(curves) {
        let points = || curve.lines.iter().flat_map(|(_, points)| points);
        let most = points().map(|(x, _)| x.max(1.0)).fold(1.0, f64::max);
        let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(field)
            .caption(curve.title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(34)
            .y_label_area_size(56)
            .build_cartesian_2d((0.9..most * 1.1).log_scale(), 0.0..highest * HEADROOM)?;
        let mesh = &mut chart.configure_mesh();
        mesh.x_desc(curve.varied)
            .y_desc(curve.measured)
            .light_line_style(WHITE);
        mesh.x_label_formatter(&|x| format!("{x:.0}")).draw()?;
        for ((name, points), color) in curve.lines.iter().zip(COLORS) {
            let points: Vec<_> = points.iter().map(|(x, y)| (x.max(1.0), *y)).collect();
            let line = LineSeries::new(points.clone(), color.stroke_width(2)).point_size(3);
            let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color);
            chart.draw_series(line)?.label(*name).legend(key);
        }
        let labels = &mut chart.configure_series_labels();
        labels
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(WHITE)
            .draw()?;
    }
    picture.present()?;
    Ok(())
}
