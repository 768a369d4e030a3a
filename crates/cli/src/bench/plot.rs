//! The result as a picture: tokens per second above, parts of the time below.

use super::report::{Report, Run, threads};
use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

const WIDTH: u32 = 960;
const SPEEDS_HEIGHT: u32 = 300;
const ROW_HEIGHT: u32 = 34;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const BAR: RGBColor = RGBColor(68, 119, 170);
/// Distinguishable colours, the last one for what is added up.
const COLOURS: [RGBColor; super::report::KINDS_LISTED + 1] = [
    RGBColor(68, 119, 170),
    RGBColor(238, 102, 119),
    RGBColor(34, 136, 51),
    RGBColor(204, 187, 68),
    RGBColor(102, 204, 238),
    RGBColor(170, 51, 119),
    RGBColor(238, 153, 51),
    RGBColor(136, 86, 167),
    RGBColor(0, 121, 120),
    RGBColor(187, 187, 187),
];

/// Draws the report.
pub(super) fn svg(report: &Report) -> Result<String> {
    let rows = report.operations().len() as u32;
    let height = SPEEDS_HEIGHT
        + if rows == 0 {
            0
        } else {
            100 + rows * ROW_HEIGHT
        };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area, report).map_err(|error| anyhow!("drawing: {error}"))?;
        area.present()?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(area: &Area<'_>, report: &Report) -> Drawn {
    area.fill(&WHITE)?;
    let title = format!("{}, {}", report.name, report.isa);
    let area = area.titled(&title, (FONT, 20).into_font().color(&INK))?;
    let (speeds, shares) = area.split_vertically(SPEEDS_HEIGHT - 30);
    let (left, right) = speeds.split_horizontally(WIDTH / 2);
    let prefill = format!("prefill of {} tokens, tokens/s", report.prompt_tokens);
    speed(&left, report, &prefill, |run| run.prefill.tokens_per_second)?;
    let decode = format!("decode of {} tokens, tokens/s", report.decode_tokens);
    speed(&right, report, &decode, |run| run.decode.tokens_per_second)?;
    if report.operations().is_empty() {
        return Ok(());
    }
    operations(&shares, report)
}

/// One bar per thread count, its figure above it.
fn speed(area: &Area<'_>, report: &Report, title: &str, of: fn(&Run) -> f64) -> Drawn {
    let count = report.runs.len();
    let top = report.runs.iter().map(of).fold(0.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 15).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..count as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .y_labels(5)
        .label_style((FONT, 12).into_font().color(&INK))
        .draw()?;
    let centred = |vertical| {
        (FONT, 12)
            .into_font()
            .color(&INK)
            .pos(Pos::new(HPos::Center, vertical))
    };
    for (index, run) in report.runs.iter().enumerate() {
        let (middle, value) = (index as f64 + 0.5, of(run));
        let corners = [(middle - 0.3, 0.0), (middle + 0.3, value)];
        let label = EmptyElement::at((middle, value))
            + Text::new(format!("{value:.1}"), (0, -4), centred(VPos::Bottom));
        let threads = threads(run.threads);
        let axis = EmptyElement::at((middle, 0.0)) + Text::new(threads, (0, 8), centred(VPos::Top));
        chart.draw_series([Rectangle::new(corners, BAR.filled())])?;
        chart.draw_series([label])?;
        chart.draw_series([axis])?;
    }
    Ok(())
}

/// One stacked bar per run, with a legend below.
fn operations(area: &Area<'_>, report: &Report) -> Drawn {
    let (names, columns): (Vec<_>, Vec<_>) = report.operations().into_iter().unzip();
    let kinds = report.kinds(&columns);
    let style = |horizontal| {
        (FONT, 12)
            .into_font()
            .color(&INK)
            .pos(Pos::new(horizontal, VPos::Center))
    };
    let (left, width) = (110, WIDTH as i32 - 110 - 24);
    let heading = (FONT, 15)
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Center));
    let title = "share of the time per kind of operation (threads)";
    area.draw(&Text::new(title, (WIDTH as i32 / 2, 14), heading))?;
    for (row, name) in names.iter().enumerate() {
        let top = 34 + row as i32 * ROW_HEIGHT as i32;
        let (bottom, middle) = (top + ROW_HEIGHT as i32 - 8, top + ROW_HEIGHT as i32 / 2 - 4);
        area.draw(&Text::new(
            name.clone(),
            (left - 8, middle),
            style(HPos::Right),
        ))?;
        let mut begin = 0.0;
        for ((_, shares), colour) in kinds.iter().zip(COLOURS) {
            let end = begin + shares[row];
            let at = |share: f64| left + (share * f64::from(width)).round() as i32;
            let corners = [(at(begin), top), (at(end), bottom)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
            if shares[row] >= 0.04 {
                let label = format!("{:.0} %", shares[row] * 100.0);
                let style = style(HPos::Center).color(&WHITE);
                area.draw(&Text::new(
                    label,
                    (at(f64::midpoint(begin, end)), middle),
                    style,
                ))?;
            }
            begin = end;
        }
    }
    let legend = 34 + names.len() as i32 * ROW_HEIGHT as i32 + 16;
    for (index, ((kind, _), colour)) in kinds.iter().zip(COLOURS).enumerate() {
        let (column, row) = (index as i32 % 5, index as i32 / 5);
        let (x, y) = (left + column * width / 5, legend + row * 22);
        area.draw(&Rectangle::new(
            [(x, y - 6), (x + 12, y + 6)],
            colour.filled(),
        ))?;
        area.draw(&Text::new(kind.clone(), (x + 18, y), style(HPos::Left)))?;
    }
    Ok(())
}
