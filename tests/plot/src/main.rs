// SPDX-License-Identifier: GPL-2.0

//! Draws the results of `ksm_v_bench`: reads points ("plot scanner x y" in each line) from
//! standard input and writes one picture for each plot into a directory.

use plotters::prelude::*;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;

/// A picture.
struct Plot {
    /// The ID of its points.
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// Whether both axes are logarithmic.
    logarithmic: bool,
}

const PLOTS: &[Plot] = &[
    Plot {
        name: "convergence",
        title: "256 MiB, each content 4 times: memory saved, over the scanner's CPU time",
        x: "million instructions of the scanner's thread",
        y: "MiB saved",
        logarithmic: false,
    },
    Plot {
        name: "cost",
        title: "Pages that all differ: cost of looking at one again",
        x: "MiB of memory",
        y: "instructions per page",
        logarithmic: true,
    },
];

/// The scanners, and the colours of their lines.
const SCANNERS: [(&str, RGBColor); 2] = [
    ("ksmd", RGBColor(0xd9, 0x5f, 0x02)),
    ("ksm_v", RGBColor(0x1b, 0x6f, 0xa8)),
];

/// Size of a picture, in pixels.
const SIZE: (u32, u32) = (820, 420);

/// A point, and its scanner.
struct Point {
    plot: String,
    scanner: String,
    at: (f64, f64),
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args()
        .nth(1)
        .ok_or("usage: ksm_v_plot DIRECTORY <POINTS")?;
    let points: Vec<Point> = std::io::stdin()
        .lock()
        .lines()
        .map(|line| parse(&line?))
        .collect::<Result<_, _>>()?;
    for plot in PLOTS {
        let path = Path::new(&directory).join(plot.name).with_extension("svg");
        let of_plot: Vec<&Point> = points
            .iter()
            .filter(|point| point.plot == plot.name)
            .collect();
        if !of_plot.is_empty() {
            draw(plot, &of_plot, &path)?;
        }
    }
    Ok(())
}

fn parse(line: &str) -> Result<Point, Box<dyn Error>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [plot, scanner, x, y] = words[..] else {
        return Err(format!("'{line}' is no point: plot scanner x y").into());
    };
    Ok(Point {
        plot: plot.to_owned(),
        scanner: scanner.to_owned(),
        at: (x.parse()?, y.parse()?),
    })
}

fn draw(plot: &Plot, points: &[&Point], path: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let most = |coordinate: fn(&Point) -> f64| {
        points
            .iter()
            .map(|point| coordinate(point))
            .fold(0.0, f64::max)
    };
    let (width, height) = (most(|point| point.at.0), most(|point| point.at.1));
    let mut builder = ChartBuilder::on(&root);
    builder
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64);
    // The two kinds of axes have different types.
    macro_rules! chart {
        ($x:expr, $y:expr) => {{
            let mut chart = builder.build_cartesian_2d($x, $y)?;
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .x_desc(plot.x)
                .y_desc(plot.y)
                .x_label_formatter(&|x| format!("{x:.0}"))
                .y_label_formatter(&|y| format!("{y:.0}"))
                .draw()?;
            for (scanner, colour) in SCANNERS {
                let line: Vec<(f64, f64)> = points
                    .iter()
                    .filter(|point| point.scanner == scanner)
                    .map(|point| point.at)
                    .collect();
                let dots = line.clone();
                chart
                    .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                    .label(scanner)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
                if plot.logarithmic {
                    chart.draw_series(
                        dots.into_iter()
                            .map(|at| Circle::new(at, 3, colour.filled())),
                    )?;
                }
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::MiddleRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }};
    }
    if plot.logarithmic {
        chart!(
            (32.0..width * 2.0).log_scale(),
            (100.0..height * 2.0).log_scale()
        );
    } else {
        chart!(0.0..width * 1.05, 0.0..height * 1.1);
    }
    root.present()?;
    Ok(())
}
